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

/* Storage widths of a layer: 8, 4 or 2 bits. Below 8, elements are packed low bits first (at 4 bits [1, 2, 3, 4] is
   0x21 0x43), tensors along their flat order. Every output channel's weights start at a byte of their own, channel
   after channel, each channel's taps in TFLite's order. */
typedef struct {
  int32_t input, output;
  const uint8_t *weights; /* per output channel */
} rqdkm_bits;

/* How the compiler proved the outputs of a layer can be requantized; see kernels/output.h. Fixed values: Python has
 * them.
 */
typedef enum {
  RQDKM_REQUANTIZE_FLOOR = 0,
  RQDKM_REQUANTIZE_SHIFT = 1,
  RQDKM_REQUANTIZE_AWAY = 2,
  RQDKM_REQUANTIZE_AWAY_SHIFT = 3,
  RQDKM_REQUANTIZE_WIDE = 4,
} rqdkm_requantize_form;

/* Constants of two output channels, packed by rqdkm_tvm/kernels/pack.py. bias holds the bias with the input zero point
   folded in, shifted as the lanes are: (bias - (zp + 128) sum w) << lane shift, because the fast kernels read the input
   as (x + 128) << lane shift (7 in convolutions, 3 in fully connected layers). The meaning of offset and shift depends
   on the form, see kernels/output.h; output zero point and TFLite's signed shift for WIDE. Assembly kernels load the
   eight words in this order. */
typedef struct {
  int32_t multiplier, offset, shift;
} rqdkm_output_quant;

typedef struct {
  int32_t bias[2];
  rqdkm_output_quant output[2];
} rqdkm_pair_quant;

struct rqdkm_panel_product;
typedef void (*rqdkm_panel_function)(const struct rqdkm_panel_product *product);

/* What the fast convolution kernels take in place of rqdkm_channel_quant: one entry per pair of output channels. The
   last pair of an odd number of channels repeats the channel before it. */
typedef struct {
  rqdkm_requantize_form form;
  const rqdkm_pair_quant *pairs;
  const uint8_t *bits;        /* of each pair's weights: 8, 4 or 2 (kernels/weights.h); NULL: all have 8 */
  rqdkm_panel_function panel; /* of gemm and im2row, for `form` (kernels/panel.h): only what is named is linked */
} rqdkm_packed_quant;

#ifdef __cplusplus
}
#endif
#endif
