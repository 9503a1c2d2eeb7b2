/* SPDX-License-Identifier: Apache-2.0 */
/* Bands: horizontal parts of a feature map. A layer that is computed band by band never holds the whole of what a band
 * is made from: its input unpacked to int8, or its result before it is packed, added or pooled (docs/bands.md). */
#ifndef RQDKM_BANDS_H
#define RQDKM_BANDS_H

#include <stdint.h>

#include "rqdkm/arch.h"

/* What a window operator reads for some of its output rows: input rows first ... first + rows - 1, and beyond them rows
   of padding. */
typedef struct {
  int32_t first, rows, pad_top, pad_bottom;
} rqdkm_band;

/* Output rows y ... y + rows - 1 of an operator with windows of `reach` rows every `stride` rows, `pad_top` rows of
   padding and `input_h` input rows. Every window meets the input. */
RQDKM_INLINE rqdkm_band rqdkm_band_rows(int32_t y, int32_t rows, int32_t stride, int32_t reach, int32_t pad_top,
                                        int32_t input_h) {
  const int32_t start = y * stride - pad_top, end = start + (rows - 1) * stride + reach;
  const int32_t first = start < 0 ? 0 : start, last = end > input_h ? input_h : end;
  const rqdkm_band band = {first, last - first, first - start, end - last};
  return band;
}

#endif
