/* SPDX-License-Identifier: Apache-2.0 */
/* Pooling and spatial mean, int8. Tensors are HWC. Input and output share scale and zero point (TFLite's rule), except
   for the mean. Bit-exact with TFLite's reference kernels; all functions return RQDKM_OK or a negative rqdkm_status. */
#ifndef RQDKM_POOLING_H
#define RQDKM_POOLING_H

#include <stdint.h>

#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* padding.bottom and .right are implied by the output size and not read. */
typedef struct {
  rqdkm_hw window, stride;
  rqdkm_padding padding;
  rqdkm_clamp clamp;
} rqdkm_pool_params;

/* Average over the elements of the window that lie inside the input (padding is not counted), rounded half away from
   zero. A window without any element is RQDKM_ERROR_ARGUMENT. */
int32_t rqdkm_avg_pool2d_s8_ref(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                                const rqdkm_dims *output_dims, int8_t *output);
int32_t rqdkm_avg_pool2d_s8(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                            const rqdkm_dims *output_dims, int8_t *output);

/* Maximum over the elements of the window that lie inside the input. */
int32_t rqdkm_max_pool2d_s8_ref(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                                const rqdkm_dims *output_dims, int8_t *output);
int32_t rqdkm_max_pool2d_s8(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                            const rqdkm_dims *output_dims, int8_t *output);

/* Mean over the middle axis of an (outer, reduced, inner) tensor:
   output = clamp(requantize(sum - reduced * input_zero_point) + output_zero_point), where multiplier and shift already
   hold the division by `reduced`, as TFLite folds it (shift > 0 is to the left). */
typedef struct {
  int32_t input_zero_point, output_zero_point;
  int32_t multiplier, shift;
} rqdkm_mean_params;

int32_t rqdkm_mean_s8_ref(const rqdkm_mean_params *params, int32_t outer, int32_t reduced, int32_t inner,
                          const int8_t *input, int8_t *output);
int32_t rqdkm_mean_s8(const rqdkm_mean_params *params, int32_t outer, int32_t reduced, int32_t inner,
                      const int8_t *input, int8_t *output);

#ifdef __cplusplus
}
#endif
#endif
