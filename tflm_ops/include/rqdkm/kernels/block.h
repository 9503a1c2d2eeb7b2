/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loops of every convolution, in two versions that compute the same: C, which is the definition and runs
 * everywhere, and assembly for the Cortex-M4.
 *
 * A block is 4 pixels x 2 output channels (or 3 x 2). One step takes two taps of each: 16 MACs in 6 LDR + 8 SMLAD, 16
 * cycles (loads pipeline in groups of 4 and 2); 12 MACs in 12 cycles for 3 pixels. Two pointers, two weight words, two
 * input words and eight accumulators are all 14 registers there are, which is why this is assembly: GCC spills. What is
 * needed once per block (constants, output pointer, ends) waits in FPU registers, one cycle away.
 *
 * Inputs and weights are 16-bit lanes: step k of pixel i is the word at a + k * step_bytes + i * pixel_bytes, of output
 * channel o the word at w + 8 k + 4 o. */
#ifndef RQDKM_KERNELS_BLOCK_H
#define RQDKM_KERNELS_BLOCK_H

#include "rqdkm/arch.h"
#include "rqdkm/requantize.h"

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
} rqdkm_block_row;

/* Too long to be inlined eight times. */
static RQDKM_NOINLINE RQDKM_UNUSED int8_t rqdkm_block_output_wide(int32_t acc2, const rqdkm_output_quant *q) {
  return (int8_t)rqdkm_requantize_wide(acc2 >> 1, q->multiplier, q->shift, q->offset, -128, 127);
}

/* Accumulator, shifted left as the form wants it -> int8. `form` is a compile-time constant. */
RQDKM_INLINE int8_t rqdkm_block_output(int32_t acc, const rqdkm_requantize_form form, const rqdkm_output_quant *q) {
  switch (form) {
    case RQDKM_REQUANTIZE_FLOOR:
      return (int8_t)rqdkm_requantize_floor(acc, q->multiplier, q->offset);
    case RQDKM_REQUANTIZE_UP:
      return (int8_t)rqdkm_requantize_up(acc, q->multiplier, q->offset, q->shift);
    case RQDKM_REQUANTIZE_AWAY:
      return (int8_t)rqdkm_requantize_away(acc, q->multiplier, q->offset, q->shift);
    default:
      return rqdkm_block_output_wide(acc, q);
  }
}

/* ---- C: any number of pixels per block (1 to 4), any form
 * ------------------------------------------------------------ Constants: np, pixel_bytes, step_bytes, form. Returns
 * the lanes after the last block. */
RQDKM_INLINE const uint8_t *rqdkm_block_row_c(const uint8_t *a, const rqdkm_block_row *row, const int32_t np,
                                              const int32_t pixel_bytes, const int32_t step_bytes,
                                              const rqdkm_requantize_form form) {
  int8_t *out = row->out;
  RQDKM_NO_UNROLL
  for (int32_t block = 0; block < row->blocks; block++) {
    const uint32_t *w = row->weights;
    int32_t acc[4][2];
    for (int32_t i = 0; i < np; i++) {
      acc[i][0] = row->quant->bias[0];
      acc[i][1] = row->quant->bias[1];
    }
    RQDKM_NO_UNROLL
    for (int32_t ky = 0; ky < row->rows; ky++) {
      RQDKM_NO_UNROLL
      for (int32_t k = 0; k < row->steps; k++) {
        for (int32_t i = 0; i < np; i++) {
          const uint32_t x = rqdkm_load32(a + i * pixel_bytes);
          acc[i][0] = rqdkm_smlad(x, w[0], acc[i][0]);
          acc[i][1] = rqdkm_smlad(x, w[1], acc[i][1]);
        }
        a += step_bytes;
        w += 2;
      }
      a += row->row_gap;
    }
    a += row->block_gap - row->row_gap;
    for (int32_t i = 0; i < np; i++) {
      out[0] = rqdkm_block_output(acc[i][0], form, row->quant->output);
      out[1] = rqdkm_block_output(acc[i][1], form, row->quant->output + 1);
      out += row->stride;
    }
  }
  return a;
}

#if RQDKM_ASM_BLOCKS
#include "rqdkm/kernels/block_m4.h"
#endif

/* One row of blocks by the fastest version there is. unroll: steps per turn of the inner loop; steps must be a multiple
   of it unless it is 8. one_row: row->rows is 1. */
RQDKM_INLINE const uint8_t *rqdkm_block_row_run(const uint8_t *a, const rqdkm_block_row *row, const int32_t np,
                                                const int32_t pixel_bytes, const int32_t step_bytes,
                                                const int32_t unroll, const int32_t one_row,
                                                const rqdkm_requantize_form form) {
#if RQDKM_ASM_BLOCKS
  if (form != RQDKM_REQUANTIZE_WIDE && np >= 3) {
    if (unroll != 8 || row->steps % 8 == 0) {
      return rqdkm_block_row_asm(a, row, np, pixel_bytes, step_bytes, unroll, !one_row, 0, form);
    }
    return rqdkm_block_row_asm(a, row, np, pixel_bytes, step_bytes, unroll, !one_row, 1, form);
  }
#endif
  (void)unroll;
  (void)one_row;
  return rqdkm_block_row_c(a, row, np, pixel_bytes, step_bytes, form);
}

#endif
