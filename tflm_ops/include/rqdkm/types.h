/* SPDX-License-Identifier: Apache-2.0 */
/* Parameter structs shared by all kernels. Tensors are NHWC with N = 1. */
#ifndef RQDKM_TYPES_H
#define RQDKM_TYPES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  RQDKM_OK = 0,
  RQDKM_ERROR_ARGUMENT = -1,    /* a pointer is NULL, a size is out of range */
  RQDKM_ERROR_UNSUPPORTED = -2, /* this kernel cannot run these parameters */
} rqdkm_status;

typedef struct {
  int32_t h, w, c;
} rqdkm_dims;

typedef struct {
  int32_t h, w;
} rqdkm_hw;

typedef struct {
  int32_t top, left, bottom, right;
} rqdkm_padding;

typedef struct {
  int32_t min, max;
} rqdkm_clamp;

/* input_offset = -zero_point of the input, output_offset = +zero_point of the output (TFLite's convention). */
typedef struct {
  int32_t input_offset, output_offset;
  rqdkm_hw stride, dilation;
  rqdkm_padding padding;
  rqdkm_clamp clamp;
} rqdkm_conv_params;

/* One multiplier and shift per output channel: real multiplier = multiplier * 2^(shift - 31), TFLite's convention
   (shift > 0 is to the left). */
typedef struct {
  const int32_t *multiplier;
  const int32_t *shift;
} rqdkm_channel_quant;

#ifdef __cplusplus
}
#endif
#endif
