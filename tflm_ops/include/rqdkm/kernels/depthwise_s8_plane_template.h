/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolution of stride 1 or 2 along rows, on planar rows of 16-bit pixels: the template that per-layer
   wrappers specialise.

   Four channels at a time are laid out apart, two neighbouring pixels of a channel in a word, so that an SMLAD does two
   taps of one kernel row. With stride 2 every output begins at a word. With stride 1 every second one does; the others
   take the same words with weights moved by one lane. A block is four outputs of a row: per kernel row each data word
   is loaded once. With stride 2 and up to 5 rows of up to 6 columns all weights stay in the FPU's registers (asm, as
   the 14 core registers hold the block).

   Requantization: rqdkm_floor_form; weights and bias arrive scaled by 2^k. */
#ifndef RQDKM_DEPTHWISE_S8_PLANE_TEMPLATE_H
#define RQDKM_DEPTHWISE_S8_PLANE_TEMPLATE_H

#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/depthwise.h"
#include "rqdkm/elementwise.h"
#include "rqdkm/types.h"

typedef struct {
  rqdkm_dims input, output; /* input.c == output.c, a multiple of 4 */
  rqdkm_hw kernel, stride;  /* stride.w 1 or 2; kernel.w so that words is 2 to 4 */
  int32_t pad_top, pad_left;
  int32_t input_zero_point;
  int32_t rows;        /* output rows per strip, >= 1 */
  int32_t form;        /* rqdkm_floor_form */
  int32_t right_shift; /* the layer's; not read in form SHIFT */
  rqdkm_clamp clamp;
} rqdkm_depthwise_plane_params;

/* Sizes that follow; compile-time constants in a specialised wrapper. Per channel the table holds for each kernel row
   `words` words of two weights for outputs that begin at a word (a zero behind the last), with stride 1 as many for
   those that begin in the middle of one (a zero before the first); then bias, multiplier, offset, addend of negative
   accumulators, right shift. */
typedef struct {
  int32_t words;   /* weight words of a kernel row */
  int32_t sets;    /* 2 with stride 1, else 1 */
  int32_t columns; /* words of a planar row, enough for a whole number of blocks */
  int32_t height;  /* planar rows of a strip */
  int32_t table;   /* words per channel */
} rqdkm_dwp_sizes;

RQDKM_INLINE rqdkm_dwp_sizes rqdkm_dwp_sizes_of(const rqdkm_depthwise_plane_params *p) {
  rqdkm_dwp_sizes s;
  s.sets = p->stride.w == 1 ? 2 : 1;
  s.words = (p->kernel.w + s.sets) / 2;
  s.columns = (p->output.w + 3) / 4 * 4 / s.sets + s.words - 1;
  s.height = (p->rows - 1) * p->stride.h + p->kernel.h;
  s.table = p->kernel.h * s.sets * s.words + 5;
  return s;
}

/* Two pixels of four channels, from words a and b, to four channels `apart` words from each other. */
RQDKM_INLINE void rqdkm_dwp_spread(uint32_t *to, uint32_t a, uint32_t b, int32_t apart) {
  const uint32_t low = rqdkm_pack_lo_lo(a, b), high = rqdkm_pack_hi_hi(a, b); /* channels 0 1 0 1 and 2 3 2 3 */
  to[0] = rqdkm_sxtb16(low);
  to[apart] = rqdkm_sxtb16_ror8(low);
  to[2 * apart] = rqdkm_sxtb16(high);
  to[3 * apart] = rqdkm_sxtb16_ror8(high);
}

/* One planar row of four channels. row: the input's, or NULL for one of padding; step: bytes between pixels. */
RQDKM_INLINE void rqdkm_dwp_layout(uint32_t *to, const int8_t *row, int32_t width, int32_t left, int32_t columns,
                                   int32_t step, uint32_t zero_point) {
  const uint32_t pad = zero_point * 0x01010101U;
  /* words [first, full) hold two pixels of the input each */
  const int32_t first = row != NULL ? (left + 1) / 2 : columns, inside = (left + width) / 2;
  const int32_t full = row == NULL ? columns : inside < columns ? inside : columns;
  int32_t i = 0;
  RQDKM_NO_UNROLL for (; i < first; i++) {
    const int32_t pixel = row != NULL && left % 2 != 0 && i == left / 2;
    rqdkm_dwp_spread(to + i, pad, pixel ? rqdkm_load32(row) : pad, columns);
  }
  if (row == NULL) return;
  const int8_t *x = row + (left % 2) * step;
  RQDKM_NO_UNROLL for (; i < full; i++, x += 2 * step) {
    rqdkm_dwp_spread(to + i, rqdkm_load32(x), rqdkm_load32(x + step), columns);
  }
  RQDKM_NO_UNROLL for (; i < columns; i++) {
    const int32_t pixel = (left + width) % 2 != 0 && i == inside;
    rqdkm_dwp_spread(to + i, pixel ? rqdkm_load32(row + (width - 1) * step) : pad, pad, columns);
  }
}

/* ---- asm: stride 2, up to 5 kernel rows of 2 or 3 words -------------------------------------------------------------
   Within a block r0 is at its first word, r1 to r3 are weights, r6 to r9 accumulators. s0 to s14: weights; s15 to s19:
   bias, multiplier, offset, addend, right shift; s20: output, s21: end of the row's whole blocks, s22: rows left. */
/* clang-format off */
#if RQDKM_DSP && defined(__OPTIMIZE__) && defined(__ARM_FP)
#define RQDKM_DWP_ASM 1
#define DWP_NL "\n\t"
#define DWP_LD(r, k, j) "ldr " r ", [r0, #%c[pitch] * " k " + " j "]" DWP_NL
#define DWP_MAC(a, d, w, from) "smlad " a ", " d ", " w ", " from DWP_NL
/* i: what the first product of an accumulator is added to, itself (OWN) or the bias, which waits in the last (BIAS). */
#define DWP_OWN(r) r
#define DWP_BIAS(r) "r9"
#define DWP_ROW3(k, w0, w1, w2, i) \
  DWP_LD("r4", k, "0") DWP_LD("r5", k, "4") DWP_LD("r10", k, "8") DWP_LD("r11", k, "12") DWP_LD("r12", k, "16") \
  DWP_LD("lr", k, "20") "vmov r1, " w0 DWP_NL "vmov r2, " w1 DWP_NL "vmov r3, " w2 DWP_NL \
  DWP_MAC("r6", "r4", "r1", i("r6")) DWP_MAC("r7", "r5", "r1", i("r7")) DWP_MAC("r8", "r10", "r1", i("r8")) \
  DWP_MAC("r9", "r11", "r1", "r9") \
  DWP_MAC("r6", "r5", "r2", "r6") DWP_MAC("r7", "r10", "r2", "r7") DWP_MAC("r8", "r11", "r2", "r8") \
  DWP_MAC("r9", "r12", "r2", "r9") \
  DWP_MAC("r6", "r10", "r3", "r6") DWP_MAC("r7", "r11", "r3", "r7") DWP_MAC("r8", "r12", "r3", "r8") \
  DWP_MAC("r9", "lr", "r3", "r9")
#define DWP_ROW2(k, w0, w1, w2, i) \
  DWP_LD("r4", k, "0") DWP_LD("r5", k, "4") DWP_LD("r10", k, "8") DWP_LD("r11", k, "12") DWP_LD("r12", k, "16") \
  "vmov r1, " w0 DWP_NL "vmov r2, " w1 DWP_NL \
  DWP_MAC("r6", "r4", "r1", i("r6")) DWP_MAC("r7", "r5", "r1", i("r7")) DWP_MAC("r8", "r10", "r1", i("r8")) \
  DWP_MAC("r9", "r11", "r1", "r9") \
  DWP_MAC("r6", "r5", "r2", "r6") DWP_MAC("r7", "r10", "r2", "r7") DWP_MAC("r8", "r11", "r2", "r8") \
  DWP_MAC("r9", "r12", "r2", "r9")
#define DWP_IF(k, text) ".if %c[kh] > " k DWP_NL text ".endif" DWP_NL
#define DWP_ROWS3 DWP_ROW3("0", "s0", "s1", "s2", DWP_BIAS) DWP_IF("1", DWP_ROW3("1", "s3", "s4", "s5", DWP_OWN)) \
  DWP_IF("2", DWP_ROW3("2", "s6", "s7", "s8", DWP_OWN)) DWP_IF("3", DWP_ROW3("3", "s9", "s10", "s11", DWP_OWN)) \
  DWP_IF("4", DWP_ROW3("4", "s12", "s13", "s14", DWP_OWN))
#define DWP_ROWS2 DWP_ROW2("0", "s0", "s1", , DWP_BIAS) DWP_IF("1", DWP_ROW2("1", "s2", "s3", , DWP_OWN)) \
  DWP_IF("2", DWP_ROW2("2", "s4", "s5", , DWP_OWN)) DWP_IF("3", DWP_ROW2("3", "s6", "s7", , DWP_OWN)) \
  DWP_IF("4", DWP_ROW2("4", "s8", "s9", , DWP_OWN))
#define DWP_FLOOR(r) "smmla " r ", " r ", r1, r2" DWP_NL "ssat " r ", #8, " r ", asr #%c[shift]" DWP_NL
#define DWP_AWAY(r) "and r4, r5, " r ", asr #31" DWP_NL "add r4, r2" DWP_NL \
  "smmla " r ", " r ", r1, r4" DWP_NL "ssat " r ", #8, " r ", asr #%c[shift]" DWP_NL
#define DWP_SHIFT(r) "and r4, r5, " r ", asr #31" DWP_NL "add r4, r2" DWP_NL \
  "smmla " r ", " r ", r1, r4" DWP_NL "asr " r ", " r ", r3" DWP_NL "ssat " r ", #8, " r DWP_NL
/* A block: products, requantization. Stores follow. */
#define DWP_BLOCK(rows, finish) "vmov r9, s15" DWP_NL rows "vmov r1, s16" DWP_NL "vmov r2, s17" DWP_NL \
  ".if %c[addends]" DWP_NL "vmov r5, s18" DWP_NL "vmov r3, s19" DWP_NL ".endif" DWP_NL \
  finish("r6") finish("r7") finish("r8") finish("r9") "vmov r3, s20" DWP_NL "vmov r1, s21" DWP_NL "strb r6, [r3]" DWP_NL
#define DWP_LOAD(weights, last) ".if %c[kh] * %c[words] == " weights DWP_NL "vldmia r1!, {s0-" last "}" DWP_NL ".endif" DWP_NL
#define DWP_TEXT(rows, finish) \
  DWP_LOAD("2", "s1") DWP_LOAD("3", "s2") DWP_LOAD("4", "s3") DWP_LOAD("6", "s5") DWP_LOAD("8", "s7") \
  DWP_LOAD("9", "s8") DWP_LOAD("10", "s9") DWP_LOAD("12", "s11") DWP_LOAD("15", "s14") "vldmia r1, {s15-s19}" DWP_NL "vmov s20, r2" DWP_NL "vmov s22, r3" DWP_NL \
  "1:" DWP_NL "add r1, r0, #%c[quads] * 16" DWP_NL "vmov s21, r1" DWP_NL \
  ".if %c[quads]" DWP_NL "2:" DWP_NL DWP_BLOCK(rows, finish) \
  "strb r7, [r3, #%c[c]]" DWP_NL "strb r8, [r3, #%c[c] * 2]" DWP_NL "strb r9, [r3, #%c[c] * 3]" DWP_NL \
  "add r3, r3, #%c[c] * 4" DWP_NL "adds r0, #16" DWP_NL "vmov s20, r3" DWP_NL "cmp r0, r1" DWP_NL "bne 2b" DWP_NL ".endif" DWP_NL \
  ".if %c[more]" DWP_NL DWP_BLOCK(rows, finish) \
  ".if %c[more] > 1" DWP_NL "strb r7, [r3, #%c[c]]" DWP_NL ".endif" DWP_NL \
  ".if %c[more] > 2" DWP_NL "strb r8, [r3, #%c[c] * 2]" DWP_NL ".endif" DWP_NL \
  "add r3, r3, #%c[c] * %c[more]" DWP_NL "vmov s20, r3" DWP_NL ".endif" DWP_NL \
  "vmov r3, s22" DWP_NL "add r0, r0, #%c[skip]" DWP_NL "subs r3, #1" DWP_NL "vmov s22, r3" DWP_NL "bne 1b" DWP_NL
#define DWP_ASM(rows, finish) \
  __asm volatile(DWP_TEXT(rows, finish) : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3) \
                 : [c] "i"(c), [pitch] "i"(4 * pitch), [kh] "i"(kh), [words] "i"(s.words), [quads] "i"(quads), [more] "i"(more), \
                   [skip] "i"(skip), [shift] "i"(p->right_shift), [addends] "i"(p->form != RQDKM_FLOOR) \
                 : "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "s3", "s4", "s5", "s6", \
                   "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "s16", "s17", "s18", "s19", "s20", \
                   "s21", "s22", "cc", "memory")
#define DWP_FORMS(rows) \
  if (p->form == RQDKM_FLOOR) { DWP_ASM(rows, DWP_FLOOR); } \
  else if (p->form == RQDKM_AWAY) { DWP_ASM(rows, DWP_AWAY); } \
  else { DWP_ASM(rows, DWP_SHIFT); }
#else
#define RQDKM_DWP_ASM 0
#endif
/* clang-format on */

typedef struct {
  int32_t a, b, c, d; /* accumulators of neighbouring outputs */
} rqdkm_dwp_block;

/* One kernel row of a block, stride 2. */
RQDKM_INLINE rqdkm_dwp_block rqdkm_dwp_row2(rqdkm_dwp_block v, const uint32_t *x, const uint32_t *w, int32_t words) {
  const uint32_t w0 = w[0], w1 = w[1], w2 = words > 2 ? w[2] : 0, w3 = words > 3 ? w[3] : 0;
  uint32_t d = x[0];
  v.a = rqdkm_smlad(d, w0, v.a);
  d = x[1];
  v.a = rqdkm_smlad(d, w1, v.a);
  v.b = rqdkm_smlad(d, w0, v.b);
  d = x[2];
  if (words > 2) v.a = rqdkm_smlad(d, w2, v.a);
  v.b = rqdkm_smlad(d, w1, v.b);
  v.c = rqdkm_smlad(d, w0, v.c);
  d = x[3];
  if (words > 3) v.a = rqdkm_smlad(d, w3, v.a);
  if (words > 2) v.b = rqdkm_smlad(d, w2, v.b);
  v.c = rqdkm_smlad(d, w1, v.c);
  v.d = rqdkm_smlad(d, w0, v.d);
  d = x[4];
  if (words > 3) v.b = rqdkm_smlad(d, w3, v.b);
  if (words > 2) v.c = rqdkm_smlad(d, w2, v.c);
  v.d = rqdkm_smlad(d, w1, v.d);
  if (words > 2) {
    d = x[5];
    if (words > 3) v.c = rqdkm_smlad(d, w3, v.c);
    v.d = rqdkm_smlad(d, w2, v.d);
  }
  if (words > 3) v.d = rqdkm_smlad(x[6], w3, v.d);
  return v;
}

/* One kernel row of a block, stride 1: a and c begin at a word, b and d in the middle of one. */
RQDKM_INLINE rqdkm_dwp_block rqdkm_dwp_row1(rqdkm_dwp_block v, const uint32_t *x, const uint32_t *w, int32_t words) {
  const uint32_t *m = w + words;
  uint32_t d = x[0];
  v.a = rqdkm_smlad(d, w[0], v.a);
  v.b = rqdkm_smlad(d, m[0], v.b);
  d = x[1];
  v.a = rqdkm_smlad(d, w[1], v.a);
  v.b = rqdkm_smlad(d, m[1], v.b);
  v.c = rqdkm_smlad(d, w[0], v.c);
  v.d = rqdkm_smlad(d, m[0], v.d);
  d = x[2];
  if (words > 2) {
    v.a = rqdkm_smlad(d, w[2], v.a);
    v.b = rqdkm_smlad(d, m[2], v.b);
  }
  v.c = rqdkm_smlad(d, w[1], v.c);
  v.d = rqdkm_smlad(d, m[1], v.d);
  if (words > 2) {
    d = x[3];
    if (words > 3) {
      v.a = rqdkm_smlad(d, w[3], v.a);
      v.b = rqdkm_smlad(d, m[3], v.b);
    }
    v.c = rqdkm_smlad(d, w[2], v.c);
    v.d = rqdkm_smlad(d, m[2], v.d);
  }
  if (words > 3) {
    d = x[4];
    v.c = rqdkm_smlad(d, w[3], v.c);
    v.d = rqdkm_smlad(d, m[3], v.d);
  }
  return v;
}

RQDKM_INLINE int8_t rqdkm_dwp_output(int32_t acc, const uint32_t *rest, int32_t form, int32_t shift) {
  const int32_t offset = (int32_t)rest[2] + (form != RQDKM_FLOOR && acc < 0 ? (int32_t)rest[3] : 0);
  const int32_t right = form == RQDKM_SHIFT ? (int32_t)rest[4] : shift;
  return (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, (int32_t)rest[1], offset) >> right);
}

/* `count` (1 to 4) outputs of one channel. x: their words in the first of the kernel's planar rows; pitch: words from
   one planar row to the next. What is not stored is not computed, as count is a compile-time constant. */
RQDKM_INLINE void rqdkm_dwp_outputs(const rqdkm_depthwise_plane_params *p, const uint32_t *x, int32_t pitch,
                                    const uint32_t *table, int8_t *out, int32_t count) {
  const rqdkm_dwp_sizes s = rqdkm_dwp_sizes_of(p);
  const uint32_t *rest = table + p->kernel.h * s.sets * s.words;
  rqdkm_dwp_block v = {(int32_t)rest[0], (int32_t)rest[0], (int32_t)rest[0], (int32_t)rest[0]};
  for (int32_t ky = 0; ky < p->kernel.h; ky++) {
    const uint32_t *row = x + ky * pitch, *w = table + ky * s.sets * s.words;
    v = s.sets == 2 ? rqdkm_dwp_row1(v, row, w, s.words) : rqdkm_dwp_row2(v, row, w, s.words);
  }
  const int32_t c = p->output.c;
  out[0] = rqdkm_dwp_output(v.a, rest, p->form, p->right_shift);
  if (count > 1) out[c] = rqdkm_dwp_output(v.b, rest, p->form, p->right_shift);
  if (count > 2) out[2 * c] = rqdkm_dwp_output(v.c, rest, p->form, p->right_shift);
  if (count > 3) out[3 * c] = rqdkm_dwp_output(v.d, rest, p->form, p->right_shift);
}

/* `rows` output rows of one channel. */
RQDKM_INLINE void rqdkm_dwp_channel(const rqdkm_depthwise_plane_params *p, const uint32_t *x, const uint32_t *table,
                                    int8_t *out, int32_t rows) {
  const rqdkm_dwp_sizes s = rqdkm_dwp_sizes_of(p);
  const int32_t pitch = 4 * s.columns, quads = p->output.w / 4, more = p->output.w % 4, c = p->output.c;
#if RQDKM_DWP_ASM
  const int32_t kh = p->kernel.h, skip = 4 * (p->stride.h * pitch - 4 * quads);
  if (s.sets == 1 && s.words <= 3 && kh <= 5 && __builtin_constant_p(pitch) && __builtin_constant_p(quads) &&
      __builtin_constant_p(c) && __builtin_constant_p(p->right_shift) && 4 * ((kh - 1) * pitch + 5) <= 4095 &&
      skip <= 4095 && 16 * quads <= 4095 && 4 * c <= 4095) {
    register const uint32_t *r0 __asm("r0") = x;
    register const uint32_t *r1 __asm("r1") = table;
    register int8_t *r2 __asm("r2") = out;
    register int32_t r3 __asm("r3") = rows;
    if (s.words == 3) {
      DWP_FORMS(DWP_ROWS3)
    } else {
      DWP_FORMS(DWP_ROWS2)
    }
    return;
  }
#endif
  RQDKM_NO_UNROLL for (int32_t y = 0; y < rows; y++) {
    const uint32_t *at = x;
    RQDKM_NO_UNROLL for (int32_t i = 0; i < quads; i++, at += 4 / s.sets, out += 4 * c) {
      rqdkm_dwp_outputs(p, at, pitch, table, out, 4);
    }
    if (more != 0) rqdkm_dwp_outputs(p, at, pitch, table, out, more);
    out += more * c;
    x += p->stride.h * pitch;
  }
}

/* The whole layer. scratch: 16 * height * columns bytes (rqdkm_dwp_sizes), 4-byte alignment. Of each four channels a
   strip is laid out before its first result is written. */
RQDKM_INLINE int32_t rqdkm_depthwise_s8_plane_template(const rqdkm_depthwise_plane_params *params, const int8_t *input,
                                                       const uint32_t *table, int8_t *output, void *scratch) {
  const rqdkm_depthwise_plane_params p = *params;
  const rqdkm_dwp_sizes s = rqdkm_dwp_sizes_of(&p);
  const uint32_t zero_point = (uint32_t)p.input_zero_point & 0xffU;
  const int32_t c = p.input.c, pitch = 4 * s.columns, shared = p.kernel.h - p.stride.h;
  uint32_t *strip = (uint32_t *)scratch;
  RQDKM_NO_UNROLL for (int32_t group = 0; group < c; group += 4) {
    RQDKM_NO_UNROLL for (int32_t y = 0; y < p.output.h; y += p.rows) {
      const int32_t rows = p.output.h - y < p.rows ? p.output.h - y : p.rows;
      const int32_t height = (rows - 1) * p.stride.h + p.kernel.h;
      int32_t r = 0;
      if (y > 0 && shared > 0) { /* the previous strip's last rows are this one's first */
        const uint32_t *from = strip + p.rows * p.stride.h * pitch;
        RQDKM_NO_UNROLL for (int32_t i = 0; i < shared * pitch; i++) strip[i] = from[i];
        r = shared;
      }
      RQDKM_NO_UNROLL for (; r < height; r++) {
        const int32_t row = y * p.stride.h + r - p.pad_top;
        const int inside = row >= 0 && row < p.input.h;
        rqdkm_dwp_layout(strip + r * pitch, inside ? input + row * p.input.w * c + group : NULL, p.input.w, p.pad_left,
                         s.columns, c, zero_point);
      }
      RQDKM_NO_UNROLL for (int32_t channel = 0; channel < 4; channel++) {
        rqdkm_dwp_channel(&p, strip + channel * s.columns, table + (group + channel) * s.table,
                          output + y * p.output.w * c + group + channel, rows);
      }
    }
  }
  if (p.clamp.min > INT8_MIN || p.clamp.max < INT8_MAX) {
    return rqdkm_clip_s8(p.clamp, p.output.h * p.output.w * c, output, output);
  }
  return RQDKM_OK;
}

/* The same as a library function, for run-time parameters. */
int32_t rqdkm_depthwise_s8_plane(const rqdkm_depthwise_plane_params *params, const int8_t *input, const uint32_t *table,
                                 int8_t *output, void *scratch);

/* What a per-layer wrapper calls: the template where compile-time constants pay, else the library function. */
RQDKM_INLINE int32_t rqdkm_depthwise_s8_plane_layer(const rqdkm_depthwise_plane_params *params, const int8_t *input,
                                                    const uint32_t *table, int8_t *output, void *scratch) {
#if RQDKM_DWP_ASM
  return rqdkm_depthwise_s8_plane_template(params, input, table, output, scratch);
#else
  return rqdkm_depthwise_s8_plane(params, input, table, output, scratch);
#endif
}

#endif
