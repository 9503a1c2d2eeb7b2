/* SPDX-License-Identifier: Apache-2.0 */
/* 3x3 convolution of a single channel, stride 1: first layers that see one plane.
 *
 * A channel's nine weights stay in five registers while a row of pixels passes, so that nothing but pixels is loaded:
 * three words of two vertical neighbours, (x[y][j], x[y + 1][j]), and two of horizontal ones from row y + 2, so 5 dual
 * products per output instead of 4.5. The words of four output pixels lie together,
 *     [V0 V1 V2 V3 A B], A = (x[y + 2][0], x[y + 2][1]), B = (.. 2, .. 3)
 * and an output block reads on into the next one's V0, V1 and A. Pixels are (x + 128) * 16, weights w * 2^(k - 4): the
 * accumulator arrives as acc << k, and one SMMLA and one SSAT finish it (rqdkm_tvm/kernels/exact_floor.py has proven
 * which k, multiplier, offset and shift give TFLite's outputs). */
#ifndef RQDKM_KERNELS_CONV2D_S8_PLANE_TEMPLATE_H
#define RQDKM_KERNELS_CONV2D_S8_PLANE_TEMPLATE_H

#include <stddef.h>
#include <string.h>

#include "rqdkm/arch.h"
#include "rqdkm/kernels/conv_common.h"
#include "rqdkm/types.h"

/* One output channel. The assembly loads the words in this order. */
typedef struct {
  uint32_t weights[5]; /* rows 0, 1 of columns 0, 1, 2; row 2: columns (0, 1) and (1, 2) */
  int32_t init;        /* of the accumulator */
  int32_t multiplier, offset;
  int32_t addend; /* for acc < 0; read by the away form */
} rqdkm_plane_channel;

typedef struct {
  rqdkm_hw input, output;
  int32_t pad_top, pad_left;
  int32_t input_zero_point;
  rqdkm_clamp clamp;
} rqdkm_plane_params;

enum { RQDKM_PLANE_BLOCK = 6, RQDKM_PLANE_SCALE = 4 /* log2 of what a pixel is scaled by */ };

/* Blocks of a row, the one that is only read into included. */
RQDKM_INLINE int32_t rqdkm_plane_blocks(int32_t width) { return (width + 3) / 4 + 1; }

/* Scratch: the stream, then three padded rows. */
RQDKM_INLINE int32_t rqdkm_plane_scratch_bytes(int32_t width) { return rqdkm_plane_blocks(width) * (24 + 3 * 4); }

/* Words of four pixels from three rows, 4 bytes each. */
RQDKM_INLINE void rqdkm_plane_pack(const int8_t *top, const int8_t *middle, const int8_t *bottom, uint32_t *block) {
  const uint32_t bias = 0x00800080u;
  const uint32_t a = rqdkm_load32(top), b = rqdkm_load32(middle), c = rqdkm_load32(bottom);
  const uint32_t a_even = rqdkm_sxtab16(bias, a) << RQDKM_PLANE_SCALE, a_odd = rqdkm_sxtab16_ror8(bias, a)
                                                                               << RQDKM_PLANE_SCALE;
  const uint32_t b_even = rqdkm_sxtab16(bias, b) << RQDKM_PLANE_SCALE, b_odd = rqdkm_sxtab16_ror8(bias, b)
                                                                               << RQDKM_PLANE_SCALE;
  const uint32_t c_even = rqdkm_sxtab16(bias, c) << RQDKM_PLANE_SCALE, c_odd = rqdkm_sxtab16_ror8(bias, c)
                                                                               << RQDKM_PLANE_SCALE;
  block[0] = rqdkm_pack_lo_lo(a_even, b_even);
  block[1] = rqdkm_pack_lo_lo(a_odd, b_odd);
  block[2] = rqdkm_pack_hi_hi(a_even, b_even);
  block[3] = rqdkm_pack_hi_hi(a_odd, b_odd);
  block[4] = rqdkm_pack_lo_lo(c_even, c_odd);
  block[5] = rqdkm_pack_hi_hi(c_even, c_odd);
}

/* Outputs x to x + count - 1 of a row of one channel, `step` bytes apart. */
RQDKM_INLINE void rqdkm_plane_pixels(const uint32_t *stream, const rqdkm_plane_channel *channel, int32_t x,
                                     int32_t count, int8_t *out, const int32_t step, const int32_t shift,
                                     const int32_t away) {
  const uint32_t *const w = channel->weights;
  for (int32_t i = x; i < x + count; i++, out += step) {
    int32_t acc = channel->init;
    for (int32_t j = 0; j < 3; j++) {
      acc = rqdkm_smlad(stream[(i + j) / 4 * RQDKM_PLANE_BLOCK + (i + j) % 4], w[j], acc);
    }
    const uint32_t first = stream[i / 4 * RQDKM_PLANE_BLOCK + 4 + i % 4 / 2];
    const uint32_t second = stream[(i + 2) / 4 * RQDKM_PLANE_BLOCK + 4 + (i + 2) % 4 / 2];
    if (i % 2 == 0) {
      acc = rqdkm_smlabt(second, w[4], rqdkm_smlad(first, w[3], acc));
    } else {
      acc = rqdkm_smlad(second, w[4], rqdkm_smlatb(first, w[3], acc));
    }
    const int32_t offset = channel->offset + (away && acc < 0 ? channel->addend : 0);
    *out = (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, channel->multiplier, offset) >> shift);
  }
}

#if RQDKM_DSP && defined(__OPTIMIZE__) && !defined(RQDKM_PLAIN_BLOCKS)
/* clang-format off */
/* r0 stream, r1 outputs, r2 to r4 words of pixels, r5 to r8 accumulators, r9 to lr weights; s0 init, s1 multiplier, s2
   offset, s3 addend, s4 end of the outputs. Between blocks r4 holds the next one's A. */
#define RQDKM_PLANE_PRODUCTS                                                                     \
  "vmov r8, s0\n\tsmlad r5, r4, r12, r8\n\tsmlatb r6, r4, r12, r8\n\t"                           \
  "ldr r2, [r0]\n\tldr r3, [r0, #4]\n\tldr r4, [r0, #8]\n\t"                                     \
  "smlad r5, r2, r9, r5\n\tsmlad r6, r3, r9, r6\n\t"                                             \
  "smlad r7, r4, r9, r8\n\tsmlad r5, r3, r10, r5\n\t"                                            \
  "smlad r6, r4, r10, r6\n\tsmlad r5, r4, r11, r5\n\t"                                           \
  "ldr r2, [r0, #12]\n\tldr r3, [r0, #24]!\n\tldr r4, [r0, #4]\n\t"                              \
  "smlad r8, r2, r9, r8\n\tsmlad r7, r2, r10, r7\n\t"                                            \
  "smlad r6, r2, r11, r6\n\tsmlad r8, r3, r10, r8\n\t"                                           \
  "smlad r7, r3, r11, r7\n\tsmlad r8, r4, r11, r8\n\t"                                           \
  "ldr r3, [r0, #-4]\n\tldr r4, [r0, #16]\n\t"                                                   \
  "smlabt r5, r3, lr, r5\n\tsmlad r6, r3, lr, r6\n\t"                                            \
  "smlad r7, r3, r12, r7\n\tsmlatb r8, r3, r12, r8\n\t"                                          \
  "smlabt r7, r4, lr, r7\n\tsmlad r8, r4, lr, r8\n\t"
#define RQDKM_PLANE_FLOOR(A) "smmla " A ", " A ", r2, r3\n\t"
#define RQDKM_PLANE_AWAY(A)                                                                      \
  "vmov r4, s3\n\tand r4, r4, " A ", asr #31\n\tadd r4, r4, r3\n\t"         \
  "smmla " A ", " A ", r2, r4\n\t"
#define RQDKM_PLANE_KEPT_A
#define RQDKM_PLANE_LOST_A "ldr r4, [r0, #16]\n\t"
#define RQDKM_PLANE_FINISH(FORM)                                                                 \
  "vmov r2, s1\n\tvmov r3, s2\n\t" FORM("r5") FORM("r6") FORM("r7") FORM("r8")             \
  "ssat r5, #8, r5, asr %[shift]\n\tssat r6, #8, r6, asr %[shift]\n\t"               \
  "ssat r7, #8, r7, asr %[shift]\n\tssat r8, #8, r8, asr %[shift]\n\t"               \
  "strb r5, [r1]\n\tstrb r6, [r1, %[step1]]\n\tstrb r7, [r1, %[step2]]\n\t" \
  "strb r8, [r1, %[step3]]\n\tadd r1, r1, %[step4]\n\t"
/* Two blocks per turn; an odd number of them starts with the second. A: how r4 gets it back. */
#define RQDKM_PLANE_LOOP(FORM, A)                                                                \
  "ldmia r0!, {r9-r12, lr}\n\tvldmia r0, {s0-s3}\n\tvmov s4, r3\n\tmov r0, r2\n\t"               \
  "tst r4, #1\n\tldr r4, [r0, #16]\n\tbne 2f\n\t.balign 4\n1:\n\t"                               \
  RQDKM_PLANE_PRODUCTS RQDKM_PLANE_FINISH(FORM) A ".balign 4\n2:\n\t"                            \
  RQDKM_PLANE_PRODUCTS RQDKM_PLANE_FINISH(FORM) A "vmov r2, s4\n\tcmp r1, r2\n\tbne 1b\n\t"
#define RQDKM_PLANE_OPERANDS                                                                     \
  : "+r"(in), "+r"(to), "+r"(pixels), "+r"(end), "+r"(count)                                                  \
  : [shift] "i"(shift), [step1] "i"(step), [step2] "i"(2 * step), [step3] "i"(3 * step), [step4] "i"(4 * step) \
  : "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "s3", "s4", "cc", "memory"
/* clang-format on */

/* Four outputs at a time, 49 cycles each time (FLOOR), 63 (AWAY). All but the first four are constants. */
RQDKM_INLINE void rqdkm_plane_line(const uint32_t *stream, const rqdkm_plane_channel *channel, int32_t fours,
                                   int8_t *out, const int32_t step, const int32_t shift, const int32_t away) {
  register const void *in __asm("r0") = channel;
  register int8_t *to __asm("r1") = out;
  register const uint32_t *pixels __asm("r2") = stream;
  register const int8_t *end __asm("r3") = out + 4 * fours * step;
  register int32_t count __asm("r4") = fours;
  if (away) {
    __asm volatile(RQDKM_PLANE_LOOP(RQDKM_PLANE_AWAY, RQDKM_PLANE_LOST_A) RQDKM_PLANE_OPERANDS);
  } else {
    __asm volatile(RQDKM_PLANE_LOOP(RQDKM_PLANE_FLOOR, RQDKM_PLANE_KEPT_A) RQDKM_PLANE_OPERANDS);
  }
}
#else
RQDKM_INLINE void rqdkm_plane_line(const uint32_t *stream, const rqdkm_plane_channel *channel, int32_t fours,
                                   int8_t *out, const int32_t step, const int32_t shift, const int32_t away) {
  rqdkm_plane_pixels(stream, channel, 0, 4 * fours, out, step, shift, away);
}
#endif

/* One input row with its padding, `bytes` long. */
RQDKM_INLINE void rqdkm_plane_pad_row(const rqdkm_plane_params *p, const int8_t *input, int32_t row, int32_t bytes,
                                      int8_t *padded) {
  memset(padded, p->input_zero_point, (size_t)bytes);
  if (row >= 0 && row < p->input.h) {
    const int32_t room = bytes - p->pad_left;
    memcpy(padded + p->pad_left, input + row * p->input.w, (size_t)(p->input.w < room ? p->input.w : room));
  }
}

/* input (H, W, 1), output (H', W', channels); scratch: rqdkm_plane_scratch_bytes(output.w), word aligned. Constants:
 *   step   channels
 *   shift  right shift after the multiplication, 1 to 31
 *   away   1: negative accumulators add their channel's addend */
RQDKM_INLINE int32_t rqdkm_conv2d_s8_plane_template(const rqdkm_plane_params *params, const int8_t *input,
                                                    const rqdkm_plane_channel *channels, int8_t *output, void *scratch,
                                                    const int32_t step, const int32_t shift, const int32_t away) {
  if (params == NULL || input == NULL || channels == NULL || output == NULL || scratch == NULL) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t width = params->output.w, fours = width / 4, blocks = rqdkm_plane_blocks(width);
  uint32_t *const stream = (uint32_t *)scratch;
  int8_t *rows[3];
  for (int32_t i = 0; i < 3; i++) {
    rows[i] = (int8_t *)(stream + RQDKM_PLANE_BLOCK * blocks) + i * 4 * blocks;
    if (i < 2) rqdkm_plane_pad_row(params, input, i - params->pad_top, 4 * blocks, rows[i]);
  }
  for (int32_t y = 0; y < params->output.h; y++) {
    rqdkm_plane_pad_row(params, input, y + 2 - params->pad_top, 4 * blocks, rows[2]);
    for (int32_t i = 0; i < blocks; i++) {
      rqdkm_plane_pack(rows[0] + 4 * i, rows[1] + 4 * i, rows[2] + 4 * i, stream + RQDKM_PLANE_BLOCK * i);
    }
    int8_t *const first = rows[0];
    rows[0] = rows[1];
    rows[1] = rows[2];
    rows[2] = first;
    int8_t *const out = output + y * width * step;
    RQDKM_NO_UNROLL
    for (int32_t c = 0; c < step; c++) {
      if (fours != 0) rqdkm_plane_line(stream, channels + c, fours, out + c, step, shift, away);
      if (width % 4 != 0) {
        rqdkm_plane_pixels(stream, channels + c, 4 * fours, width % 4, out + c + 4 * fours * step, step, shift, away);
      }
    }
  }
  rqdkm_clamp_s8(output, params->output.h * width * step, &params->clamp);
  return RQDKM_OK;
}

#endif
