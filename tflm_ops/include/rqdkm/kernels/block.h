/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loops of every convolution, in two versions that compute the same: C, which is the definition and runs
 * everywhere, and assembly for the Cortex-M4.
 *
 * A block is 4 pixels x 2 output channels (or 3 x 2). One step takes two taps of each: 16 MACs in 6 LDR + 8 SMLAD, 16
 * cycles (loads pipeline in groups of 4 and 2); 12 MACs in 12 cycles for 3 pixels. Two pointers, two weight words, two
 * input words and eight accumulators are all 14 registers there are, which is why this is assembly: GCC spills. What is
 * needed once per block (constants, output pointer, ends) waits in FPU registers, one cycle away.
 *
 * Inputs and weights are 16-bit lanes. Step k of a kernel row of pixel i is the word at a + k * step_bytes + p<i>, p0 =
 * 0; of output channel o the word at w + 8 k + 4 o. */
#ifndef RQDKM_KERNELS_BLOCK_H
#define RQDKM_KERNELS_BLOCK_H

#include "rqdkm/arch.h"
#include "rqdkm/kernels/output.h"
#include "rqdkm/types.h"

/* RQDKM_PLAIN_BLOCKS selects the C version on the chip too, to test one against the other. */
#if RQDKM_DSP && !defined(RQDKM_PLAIN_BLOCKS)
#define RQDKM_ASM_BLOCKS 1
#else
#define RQDKM_ASM_BLOCKS 0
#endif

/* One row of blocks for one pair of output channels. */
typedef struct {
  const uint32_t *weights; /* [rows * steps][2] lanes */
  int32_t rows, steps;     /* kernel rows, and steps in each; >= 1 */
  int32_t row_gap;         /* bytes from the end of one kernel row's lanes to the next row's, for the same pixel */
  int32_t blocks;          /* >= 1 */
  int32_t block_gap;       /* bytes from the end of a block's last lanes to the next block's first */
  const rqdkm_pair_quant *quant;
  int8_t *out;    /* first pixel's output of the pair's first channel */
  int32_t stride; /* bytes from one pixel's output to the next */
  /* rqdkm_block_row_panel only: pairs of channels, >= 1, one after the other in quant and out, pair_words apart in
     weights */
  int32_t pairs, pair_words;
} rqdkm_block_row;

/* The C version: any number of pixels per block (np, 1 to 4) and any form. Returns the lanes after the last block. */
const uint8_t *rqdkm_block_row_c(const uint8_t *a, const rqdkm_block_row *row, int32_t np, int32_t p1, int32_t p2,
                                 int32_t p3, int32_t step_bytes, rqdkm_requantize_form form);

#if RQDKM_ASM_BLOCKS
#include "rqdkm/kernels/block_m4.h"
#endif

/* One row of blocks by the fastest version there is; pixels pixel_bytes apart. unroll: steps per turn of the inner
   loop, divides row->steps. */
RQDKM_INLINE const uint8_t *rqdkm_block_row_run(const uint8_t *a, const rqdkm_block_row *row, const int32_t np,
                                                const int32_t pixel_bytes, const int32_t step_bytes,
                                                const int32_t unroll, const rqdkm_requantize_form form) {
  const int32_t p1 = pixel_bytes, p2 = 2 * pixel_bytes, p3 = 3 * pixel_bytes;
#if RQDKM_ASM_BLOCKS
  if (form != RQDKM_REQUANTIZE_WIDE && np >= 2) {
    return rqdkm_block_row_asm(a, row, row->steps, row->block_gap, np, p1, p2, p3, step_bytes, unroll, 0, unroll,
                               step_bytes * unroll, 0, 1, 1, 0, 1, 0, form);
  }
#endif
  (void)unroll;
  return rqdkm_block_row_c(a, row, np, p1, p2, p3, step_bytes, form);
}

/* The same for row->pairs pairs of channels where a pixel's lanes are one row of any number of steps (row->rows 1),
   blocks lie one after another (block_gap 0) and a block's pixels are word-interleaved: the layout of a panel. */
RQDKM_INLINE const uint8_t *rqdkm_block_row_panel(const uint8_t *a, const rqdkm_block_row *row, const int32_t np,
                                                  const rqdkm_requantize_form form) {
#if RQDKM_ASM_BLOCKS
  if (form != RQDKM_REQUANTIZE_WIDE && np >= 2) {
    const int32_t steps = row->steps, so = 4 * np;
    const int32_t is_short = form == RQDKM_REQUANTIZE_FLOOR || form == RQDKM_REQUANTIZE_SHIFT; /* two bodies fit 1 KB */
    if (np >= 3 && is_short && steps % 16 == 0) {
      return rqdkm_block_row_asm(a, row, steps, 0, np, 4, 8, 12, so, 8, 0, 8, 8 * so, 0, 0, 0, 0, 2, 1, form);
    }
    if (np >= 3 && steps % 8 == 0) {
      return rqdkm_block_row_asm(a, row, steps, 0, np, 4, 8, 12, so, 8, 0, 8, 8 * so, 0, 0, 0, 0, 1, 1, form);
    }
    return rqdkm_block_row_asm(a, row, steps, 0, np, 4, 8, 12, so, 8, 0, 8, 8 * so, 0, 0, 0, 1, 1, 1, form);
  }
#endif
  rqdkm_block_row one = *row;
  const uint8_t *end = a;
  for (int32_t pair = 0; pair < row->pairs; pair++) {
    end = rqdkm_block_row_c(a, &one, np, 4, 8, 12, 4 * np, form);
    one.weights += row->pair_words;
    one.quant++;
    one.out += 2;
  }
  return end;
}

/* The same for short kernel rows: one turn takes turn_rows of them, steps words each, row_bytes apart, with every
   offset an immediate. turns: turn_rows * turns = row->rows. All constants but a and row. */
RQDKM_INLINE const uint8_t *rqdkm_block_row_short(const uint8_t *a, const rqdkm_block_row *row, const int32_t np,
                                                  const int32_t p1, const int32_t p2, const int32_t p3,
                                                  const int32_t steps, const int32_t row_bytes, const int32_t turn_rows,
                                                  const int32_t turns, const rqdkm_requantize_form form) {
#if RQDKM_ASM_BLOCKS
  if (form != RQDKM_REQUANTIZE_WIDE && np >= 2) {
    return rqdkm_block_row_asm(a, row, row->rows * steps, row->block_gap - row->row_gap, np, p1, p2, p3, 4, steps,
                               row_bytes, turn_rows * steps, turn_rows * row_bytes, turns, 0, 1, 0, 1, 0, form);
  }
#endif
  (void)steps;
  (void)row_bytes;
  (void)turn_rows;
  (void)turns;
  return rqdkm_block_row_c(a, row, np, p1, p2, p3, 4, form);
}

#endif
