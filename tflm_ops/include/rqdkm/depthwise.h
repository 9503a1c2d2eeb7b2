/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolution, int8. Tensors are NHWC with N = 1 (so HWC); every output channel o reads input channel
   o / multiplier, multiplier = output.c / input.c.

   Weights are TFLite's (1, KH, KW, output.c). All functions are bit-exact with TFLite's reference kernel (double
   rounding) and return RQDKM_OK or a negative rqdkm_status. */
#ifndef RQDKM_DEPTHWISE_H
#define RQDKM_DEPTHWISE_H

#include <stdint.h>

#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Plain C reference: any kernel, stride, padding, dilation and channel multiplier.

   input (input_dims->h, .w, .c), weights (kernel->h, kernel->w, output_dims->c), bias (output_dims->c) or NULL,
   output (output_dims->h, .w, .c). Accumulators must fit 32 bits, as in TFLite. */
int32_t rqdkm_depthwise_conv2d_s8_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                                      const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_hw *kernel,
                                      const int8_t *weights, const int32_t *bias, const rqdkm_dims *output_dims,
                                      int8_t *output);

/* The same where tensors and weights may have 8, 4 or 2 bits; weights (output_dims->c, kernel->h, kernel->w). */
int32_t rqdkm_depthwise_conv2d_mixed_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                                         const rqdkm_bits *bits, const rqdkm_dims *input_dims, const void *input,
                                         const rqdkm_hw *kernel, const void *weights, const int32_t *bias,
                                         const rqdkm_dims *output_dims, void *output);

/* Fills a depthwise kernel's table, in scratch, from packed weights. A row of the table is `weight_words` words of two
   16-bit lanes, weights shifted left, then `constant_words` words that are copied.

   packed: per row the bits of its weights (8, 4 or 2), the left shift of the low lanes and of the high lanes, one byte
   each, then the weights, low lane first, packed low bits first, rounded up to whole bytes. constants: (rows,
   constant_words). table: (rows, weight_words + constant_words). */
void rqdkm_depthwise_table_unpack(uint32_t *table, int32_t rows, int32_t weight_words, int32_t constant_words,
                                  const uint8_t *packed, const uint32_t *constants);

/* How the fast kernels turn an accumulator into an output, fastest first; rqdkm_tvm/kernels/exact_floor.py chooses one
   per layer and proves its constants:
       (SMMLA(acc << k, multiplier, offset) >> right_shift), saturated to int8 */
typedef enum {
  RQDKM_FLOOR = 0, /* one right shift for the layer */
  RQDKM_AWAY = 1,  /* the offset of negative accumulators gets an addend: their ties go down */
  RQDKM_SHIFT = 2, /* as AWAY, and each channel has its own right shift */
} rqdkm_floor_form;

#ifdef __cplusplus
}
#endif
#endif
