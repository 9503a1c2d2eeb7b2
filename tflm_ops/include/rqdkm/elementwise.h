/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise and data movement operators. Bit-exact with TFLite's reference kernels (double rounding); all functions
   return RQDKM_OK or a negative rqdkm_status. Shifts: > 0 is to the left, as TFLite's. */
#ifndef RQDKM_ELEMENTWISE_H
#define RQDKM_ELEMENTWISE_H

#include <stdint.h>

#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- add ---- */

/* TFLite's addition: each operand (q + offset) << 20 is scaled by its multiplier, the sum by the output's. Offsets are
   -zero_point of the inputs and +zero_point of the output. */
typedef struct {
  int32_t input1_offset, input1_multiplier, input1_shift;
  int32_t input2_offset, input2_multiplier, input2_shift;
  int32_t output_offset, output_multiplier, output_shift;
  rqdkm_clamp clamp;
} rqdkm_add_params;

/* output[i] = input1[i] + input2[i % period] for i < count; period divides count (period == count: same shapes,
   period == channels: one value per channel, period == 1: a scalar). */
int32_t rqdkm_add_s8_ref(const rqdkm_add_params *params, int32_t count, int32_t period, const int8_t *input1,
                         const int8_t *input2, int8_t *output);

/* The same with DSP instructions, for shifts <= 0 (else RQDKM_ERROR_UNSUPPORTED). */
int32_t rqdkm_add_s8(const rqdkm_add_params *params, int32_t count, int32_t period, const int8_t *input1,
                     const int8_t *input2, int8_t *output);

/* The same function as one linear form, output = clamp((a * input1_slope / 2^8 + b * input2_slope / 2^8 + constant)
   / 2^20), every division floored. The compiler has compared all 65,536 operand pairs with the arithmetic above
   (rqdkm_tvm/kernels/add.py). */
typedef struct {
  int32_t input1_slope, input2_slope, constant;
  rqdkm_clamp clamp;
} rqdkm_add_linear_params;

int32_t rqdkm_add_s8_linear(const rqdkm_add_linear_params *params, int32_t count, int32_t period, const int8_t *input1,
                            const int8_t *input2, int8_t *output);

/* ---- mul ---- */

typedef struct {
  int32_t input1_offset, input2_offset, output_offset;
  int32_t multiplier, shift;
  rqdkm_clamp clamp;
} rqdkm_mul_params;

/* output[i] = input1[i] * input2[i % period], as rqdkm_add_s8_ref. */
int32_t rqdkm_mul_s8_ref(const rqdkm_mul_params *params, int32_t count, int32_t period, const int8_t *input1,
                         const int8_t *input2, int8_t *output);

/* The same with DSP instructions, for shifts <= 0 (else RQDKM_ERROR_UNSUPPORTED). */
int32_t rqdkm_mul_s8(const rqdkm_mul_params *params, int32_t count, int32_t period, const int8_t *input1,
                     const int8_t *input2, int8_t *output);

/* The same function as output = clamp(((a + input1_offset) * (b + input2_offset) * slope + constant) >> right_shift);
   the compiler has compared every product with the arithmetic above (rqdkm_tvm/kernels/mul.py). */
typedef struct {
  int32_t input1_offset, input2_offset;
  int32_t slope, constant, right_shift;
  rqdkm_clamp clamp;
} rqdkm_mul_linear_params;

int32_t rqdkm_mul_s8_linear(const rqdkm_mul_linear_params *params, int32_t count, int32_t period, const int8_t *input1,
                            const int8_t *input2, int8_t *output);

/* ---- unary ---- */

/* output[i] = table[(uint8_t)input[i]]: any function of one int8 tensor (logistic, tanh, relu that rescales, ...). The
   compiler fills the table with the reference arithmetic. input and output may be the same buffer. */
int32_t rqdkm_unary_s8_lut_ref(int32_t count, const int8_t *table, const int8_t *input, int8_t *output);
int32_t rqdkm_unary_s8_lut(int32_t count, const int8_t *table, const int8_t *input, int8_t *output);

/* output[i] = min(max(input[i], clamp.min), clamp.max). input and output may be the same buffer. */
int32_t rqdkm_clip_s8_ref(rqdkm_clamp clamp, int32_t count, const int8_t *input, int8_t *output);
int32_t rqdkm_clip_s8(rqdkm_clamp clamp, int32_t count, const int8_t *input, int8_t *output);

/* output[i] = clamp(round_half_away(input[i] / scale) + zero_point), single precision; NaN gives clamp.min. */
int32_t rqdkm_quantize_f32_s8(float scale, int32_t zero_point, int32_t count, const float *input, int8_t *output);
/* output[i] = scale * (input[i] - zero_point), single precision. */
int32_t rqdkm_dequantize_s8_f32(float scale, int32_t zero_point, int32_t count, const int8_t *input, float *output);

/* ---- softmax ---- */

/* Softmax over rows of `depth`, output scale 1/256, zero point -128.

   exp_table[d] is exp(-d * beta * scale) as Q0.31 for d < exp_count, made by the compiler with TFLite's fixed point
   arithmetic; differences at or beyond exp_count count as 0. exp_count >= 1. depth <= 2^12 (the sum is Q12.19). */
int32_t rqdkm_softmax_s8(int32_t rows, int32_t depth, const int32_t *exp_table, int32_t exp_count, const int8_t *input,
                         int8_t *output);

/* TFLite's parameters, exp computed on the chip. */
typedef struct {
  int32_t multiplier, left_shift, diff_min;
} rqdkm_softmax_params;

int32_t rqdkm_softmax_s8_ref(const rqdkm_softmax_params *params, int32_t rows, int32_t depth, const int8_t *input,
                             int8_t *output);

/* ---- data movement ---- */

/* Constant padding of a tensor of up to 4 axes; missing axes lead with extent 1. before/after: elements added. */
typedef struct {
  int32_t shape[4], before[4], after[4];
  int8_t value;
} rqdkm_pad_params;

int32_t rqdkm_pad_s8_ref(const rqdkm_pad_params *params, const int8_t *input, int8_t *output);
int32_t rqdkm_pad_s8(const rqdkm_pad_params *params, const int8_t *input, int8_t *output);

/* Write one input of a concatenation: `outer` blocks of `inner` bytes, each to the next block of `output`, whose blocks
   lie `output_stride` bytes apart. */
int32_t rqdkm_concatenate_part(int32_t outer, int32_t inner, int32_t output_stride, const int8_t *input,
                               int8_t *output);

#ifdef __cplusplus
}
#endif
#endif
