/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "pool_window.h"
#include "rqdkm/arch.h"
#include "rqdkm/pooling.h"

/* One output pixel: h rows of w input pixels, c channels each, rows `pitch` bytes apart. */
RQDKM_INLINE void max_pixel(const int8_t *input, int32_t h, int32_t w, int32_t c, int32_t pitch, uint32_t low,
                            uint32_t high, int8_t *output) {
  int32_t i = 0;
  RQDKM_NO_UNROLL for (; i + 4 <= c; i += 4) {
    uint32_t max = 0x80808080U;
    const int8_t *row = input + i;
    for (int32_t y = 0; y < h; y++, row += pitch) {
      const int8_t *p = row;
      for (int32_t x = 0; x < w; x++, p += c) max = rqdkm_max_s8x4(max, rqdkm_load32(p));
    }
    rqdkm_store32(output + i, pool_clamp(max, low, high));
  }
  RQDKM_NO_UNROLL for (; i < c; i++) {
    uint32_t max = 0x80U;
    RQDKM_NO_UNROLL for (int32_t y = 0; y < h; y++) {
      RQDKM_NO_UNROLL for (int32_t x = 0; x < w; x++) {
        max = rqdkm_max_s8x4(max, (uint8_t)input[y * pitch + x * c + i]);
      }
    }
    output[i] = (int8_t)(uint8_t)pool_clamp(max, low, high);
  }
}

int32_t rqdkm_max_pool2d_s8(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                            const rqdkm_dims *output_dims, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const int32_t c = input_dims->c, pitch = input_dims->w * c;
  const uint32_t low = pool_bytes(params->clamp.min), high = pool_bytes(params->clamp.max);
  RQDKM_NO_UNROLL for (int32_t y = 0; y < output_dims->h; y++) {
    RQDKM_NO_UNROLL for (int32_t x = 0; x < output_dims->w; x++, output += c) {
      const pool_window window = pool_window_at(params, input_dims, y, x);
      const int8_t *p = input + window.y * pitch + window.x * c;
      if (window.h == 2 && window.w == 2) {
        max_pixel(p, 2, 2, c, pitch, low, high, output);
      } else if (window.h == 3 && window.w == 3) {
        max_pixel(p, 3, 3, c, pitch, low, high, output);
      } else {
        max_pixel(p, window.h, window.w, c, pitch, low, high, output);
      }
    }
  }
  return RQDKM_OK;
}
