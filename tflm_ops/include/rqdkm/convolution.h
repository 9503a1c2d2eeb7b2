/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution and fully connected layers, int8. Tensors are NHWC with N = 1 (so HWC), weights OHWI.
 *
 * The *_ref functions take TFLite's own tensors. The others take weights and per-channel constants packed ahead of time
 * by rqdkm_tvm/kernels/pack.py (layouts in docs/kernels.md) and working memory `scratch`, 8-byte aligned, of which
 * each has a *_scratch_bytes function. All are bit-exact with TFLite's reference kernels (double rounding) and return
 * RQDKM_OK or a negative rqdkm_status; arguments that would read or write out of bounds are refused, pointers must be
 * valid. Groups: input_dims->c / filter_dims->c. The input offset of `params` is used for padding only: the packed
 * bias already holds it. */
#ifndef RQDKM_CONVOLUTION_H
#define RQDKM_CONVOLUTION_H

#include <stdint.h>

#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a convolution is cut into pieces that fit the scratch; chosen by the planner. */
typedef struct {
  int32_t rows;   /* output rows per strip of expanded input rows, >= 1 */
  int32_t pixels; /* output positions per panel, >= 1 */
  int32_t
      resident; /* 1: expand all weights once, at the start; 0: one pair of channels at a time, per strip or panel */
} rqdkm_conv_tile;

/* Plain C reference: any kernel, stride, padding, dilation and groups.

   input (input_dims->h, .w, .c), filter (output_dims->c, filter_dims->h, .w, .c) with filter_dims->c input channels per
   group, bias (output_dims->c) or NULL, output (output_dims->h, .w, .c). Accumulators must fit 32 bits. */
int32_t rqdkm_conv2d_s8_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                            const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                            const int8_t *filter, const int32_t *bias, const rqdkm_dims *output_dims, int8_t *output);

/* The same where tensors and weights may have 8, 4 or 2 bits. */
int32_t rqdkm_conv2d_mixed_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                               const rqdkm_bits *bits, const rqdkm_dims *input_dims, const void *input,
                               const rqdkm_dims *filter_dims, const void *filter, const int32_t *bias,
                               const rqdkm_dims *output_dims, void *output);

/* Convolution as a matrix product, gathered tap by tap straight from the int8 input: 1x1 convolutions (strided or not)
   and everything whose group has a multiple of 4 input channels. Weights packed "crossed". Uses tile->pixels,
   ->resident. */
int32_t rqdkm_conv2d_s8_gemm(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                             const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                             const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                             const rqdkm_conv_tile *tile, void *scratch);

int32_t rqdkm_conv2d_s8_gemm_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                           const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                           const rqdkm_conv_tile *tile);

struct rqdkm_quad_params; /* kernels/quad.h */

/* Convolution as a matrix product with four products per multiplication (kernels/quad.h), for weights of 4 and 2 bits
   and inputs of few values, stored as bytes: one group, a multiple of 4 input channels, at least 4 output channels.
   Uses tile->pixels, a multiple of 4, and ->resident. */
int32_t rqdkm_conv2d_s4_gemm(const rqdkm_conv_params *params, const struct rqdkm_quad_params *quant,
                             const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                             const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                             const rqdkm_conv_tile *tile, void *scratch);

int32_t rqdkm_conv2d_s4_gemm_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                           const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                           const rqdkm_conv_tile *tile);

/* Direct convolution from strips of expanded rows: one group, no column dilation, filter_dims->w * channels a multiple
   of 24 and channels of 4, at least 2 output channels, form FLOOR or AWAY, and 2 * stride.w * channels one of 32, 64,
   128. The template that generated code uses has fewer limits. Weights packed "crossed". Uses tile->rows, ->resident.
 */
int32_t rqdkm_conv2d_s8_direct(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                               const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                               const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                               const rqdkm_conv_tile *tile, void *scratch);

int32_t rqdkm_conv2d_s8_direct_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                             const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                             const rqdkm_conv_tile *tile);

/* Convolution as a matrix product of patches copied from strips of expanded rows: any kernel, any number of channels;
   made for first layers (1 or 3 input channels). Weights packed "linear by runs". Uses all of tile. */
int32_t rqdkm_conv2d_s8_im2row(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                               const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                               const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                               const rqdkm_conv_tile *tile, void *scratch);

int32_t rqdkm_conv2d_s8_im2row_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                             const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                             const rqdkm_conv_tile *tile);

/* A multiply-by-weights layer: output[o] = sum_i weights[o][i] input[i]. */
typedef struct {
  int32_t inputs, outputs;
  int32_t input_offset, weight_offset, output_offset; /* -zero point of input and weights, +zero point of output */
  rqdkm_clamp clamp;
} rqdkm_fully_connected_params;

/* Plain C reference. input (batches, inputs), weights (outputs, inputs), bias (outputs) or NULL, output
   (batches, outputs); quant has one entry per output. */
int32_t rqdkm_fully_connected_s8_ref(const rqdkm_fully_connected_params *params, const rqdkm_channel_quant *quant,
                                     int32_t batches, const int8_t *input, const int8_t *weights, const int32_t *bias,
                                     int8_t *output);

/* The same where tensors and weights may have 8, 4 or 2 bits. */
int32_t rqdkm_fully_connected_mixed_ref(const rqdkm_fully_connected_params *params, const rqdkm_channel_quant *quant,
                                        const rqdkm_bits *bits, int32_t batches, const void *input, const void *weights,
                                        const int32_t *bias, void *output);

/* Weights straight from flash, four outputs at a time, every 16-byte flash line read once. Weights packed in groups of
   four outputs; the last group is filled up with zeros, its pairs too; both pairs of a group have the same bits.
   weight_offset must be 0. */
int32_t rqdkm_fully_connected_s8_fast(const rqdkm_fully_connected_params *params, const rqdkm_packed_quant *quant,
                                      int32_t batches, const int8_t *input, const int8_t *weights, int8_t *output,
                                      void *scratch);

int32_t rqdkm_fully_connected_s8_fast_scratch_bytes(const rqdkm_fully_connected_params *params);

#ifdef __cplusplus
}
#endif
#endif
