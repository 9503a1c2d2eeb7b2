/* SPDX-License-Identifier: Apache-2.0 */
/* Four products per multiplication: matrix product of few-bit values, two pixels by two output channels in one SMLAL.
 *
 * Two inputs of one tap stand in one operand and two weights in the other, f being 4 or 5,
 *     X = x0 2^f + x1 2^18            x = input - low >= 0, low the least value the input takes
 *     W = w0 + w1 2^(32 - f)          signed
 * and X W holds the four products x0 w0, x1 w0, x0 w1, x1 w1 from bits f, 18, 32 and 50 - f on: two in each half of a
 * 64-bit sum. Fields borrow from one another while they are summed; all that matters is the end. There each is made
 * non-negative by what its channel's sum starts with, `span` times the sum of its negative weights, span the greatest
 * x; the fields are separate if span sum |w| < 2^(18 - f) for every channel, which the compiler proves from the real
 * weights (rqdkm_tvm/kernels/conv2d_quad.py). f is 5 where a weight of -8 stands beside a negative one, which 28 bits
 * higher would not fit W. Per tap 4 LDR and 4 SMLAL are 16 MACs, in 9 cycles where the 16-bit lanes of block.h need 16.
 */
#ifndef RQDKM_KERNELS_QUAD_H
#define RQDKM_KERNELS_QUAD_H

#include "rqdkm/kernels/block.h"
#include "rqdkm/types.h"

#define RQDKM_QUAD_SECOND 18 /* first bit of x1 in X, and of the second field of a sum's low word */

/* Constants of four output channels, packed by the compiler; assembly loads the 20 words in this order. */
typedef struct {
  uint32_t start[2][2]; /* of channels 0 and 1, then 2 and 3: low and high word that sums of two pixels start with */
  struct {
    int32_t bias; /* what the field lacks to the accumulator, shifted as lanes are (output.h) */
    rqdkm_output_quant output;
  } channel[4];
} rqdkm_quad_quant;

/* Blocks of four pixels with four output channels. */
typedef struct {
  const uint32_t *inputs;  /* [blocks][taps][2]: X of pixels 0 and 1, of 2 and 3 */
  const uint32_t *weights; /* [taps][2]: W of channels 0 and 1, of 2 and 3 */
  int32_t taps;            /* a positive multiple of 4 */
  int32_t first;           /* f: 4 or 5 */
  int32_t blocks;          /* >= 1 */
  const rqdkm_quad_quant *quant;
  int8_t *out;    /* first pixel's output of channel 0 */
  int32_t stride; /* bytes from one pixel's output to the next */
} rqdkm_quad_row;

/* What a layer is computed with, in place of rqdkm_packed_quant. */
typedef struct rqdkm_quad_params {
  void (*multiply)(const rqdkm_quad_row *row); /* rqdkm_quad_row_<form> */
  const rqdkm_quad_quant *fours; /* per four output channels; the last four overlap those before if they must */
  const uint8_t *bits;           /* of each pair's weights, 4 or 2 */
  int32_t low;                   /* least value of the input */
  int32_t first;                 /* f: 4 or 5 */
} rqdkm_quad_params;

/* One per form but WIDE; only the one that a layer names is linked. */
void rqdkm_quad_row_floor(const rqdkm_quad_row *row);
void rqdkm_quad_row_shift(const rqdkm_quad_row *row);
void rqdkm_quad_row_away(const rqdkm_quad_row *row);
void rqdkm_quad_row_away_shift(const rqdkm_quad_row *row);

/* The C version, of any form. */
void rqdkm_quad_row_c(const rqdkm_quad_row *row, rqdkm_requantize_form form);

/* Packed weights of a pair of output channels (weights.h) -> W of every tap, at dst[0], dst[2], ... taps: a multiple of
   4. bits: 4 or 2; first: f. Returns the next pair's weights. */
const int8_t *rqdkm_quad_weights(uint32_t *dst, const int8_t *src, int32_t taps, int32_t bits, int32_t first);

#if RQDKM_ASM_BLOCKS
#include "rqdkm/kernels/quad_m4.h"
#endif

/* Body of rqdkm_quad_row_<form>; form is a compile-time constant. */
RQDKM_INLINE void rqdkm_quad_row_template(const rqdkm_quad_row *row, const rqdkm_requantize_form form) {
#if RQDKM_ASM_BLOCKS
  if (row->first == 4) {
    rqdkm_quad_row_asm(row, 4, form);
  } else {
    rqdkm_quad_row_asm(row, 5, form);
  }
#else
  rqdkm_quad_row_c(row, form);
#endif
}

#endif
