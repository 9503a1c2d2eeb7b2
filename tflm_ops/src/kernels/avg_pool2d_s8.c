/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "pool_window.h"
#include "rqdkm/arch.h"
#include "rqdkm/pooling.h"
#include "sum_lanes.h"

/* Division by n <= 256 as a product: for 0 <= x <= 255.5 n, x / n = (x * (2^24 / n + 1)) >> 24, since the error
   x / 2^24 stays below 1 / n and the product below 2^32. */
typedef struct {
  uint32_t reciprocal, bias; /* bias: (128 n + n / 2) * reciprocal: makes x positive and rounds */
  int32_t even;              /* -1 if n is even: only then are there ties, and those of negative sums go down */
} divider;

RQDKM_INLINE divider divider_by(uint32_t n) {
  const uint32_t reciprocal = (1U << 24) / n + 1U;
  const divider d = {reciprocal, (128U * n + n / 2U) * reciprocal, n % 2U == 0U ? -1 : 0};
  return d;
}

/* round_half_away(sum / n) + 128 */
RQDKM_INLINE uint32_t divide(divider d, int32_t sum) {
  return ((uint32_t)(sum + ((sum >> 31) & d.even)) * d.reciprocal + d.bias) >> 24;
}

RQDKM_INLINE int32_t divide_wide(int32_t sum, int32_t n) { return sum > 0 ? (sum + n / 2) / n : (sum - n / 2) / n; }

/* One output pixel of at most SUM_LANES_MAX elements. */
RQDKM_INLINE void average_small(const int8_t *input, int32_t h, int32_t w, int32_t c, int32_t pitch, divider d,
                                uint32_t low, uint32_t high, int8_t *output) {
  int32_t i = 0;
  RQDKM_NO_UNROLL for (; i + 4 <= c; i += 4) {
    uint32_t even = 0, odd = 0;
    if (w == 2 && h == 2) {
      const uint32_t x0 = rqdkm_load32(input + i), x1 = rqdkm_load32(input + i + c);
      const uint32_t x2 = rqdkm_load32(input + i + pitch), x3 = rqdkm_load32(input + i + pitch + c);
      even = rqdkm_sxtab16(rqdkm_sxtab16(rqdkm_sxtab16(rqdkm_sxtb16(x0), x1), x2), x3);
      odd = rqdkm_sxtab16_ror8(rqdkm_sxtab16_ror8(rqdkm_sxtab16_ror8(rqdkm_sxtb16_ror8(x0), x1), x2), x3);
    } else if (w * c == pitch) { /* whole rows lie behind each other */
      sum_lanes(input + i, h * w, c, &even, &odd);
    } else {
      RQDKM_NO_UNROLL for (int32_t y = 0; y < h; y++) sum_lanes(input + i + y * pitch, w, c, &even, &odd);
    }
    const uint32_t bytes = divide(d, rqdkm_lo16(even)) | divide(d, rqdkm_lo16(odd)) << 8 |
                           divide(d, rqdkm_hi16(even)) << 16 | divide(d, rqdkm_hi16(odd)) << 24;
    rqdkm_store32(output + i, pool_clamp(bytes ^ 0x80808080U, low, high));
  }
  RQDKM_NO_UNROLL for (; i < c; i++) {
    int32_t sum = 0;
    RQDKM_NO_UNROLL for (int32_t y = 0; y < h; y++) {
      RQDKM_NO_UNROLL for (int32_t x = 0; x < w; x++) sum += input[y * pitch + x * c + i];
    }
    output[i] = (int8_t)(uint8_t)pool_clamp(divide(d, sum) ^ 0x80U, low, high);
  }
}

/* Any number of elements. */
static void average_large(const int8_t *input, int32_t h, int32_t w, int32_t c, int32_t pitch, rqdkm_clamp clamp,
                          int8_t *output) {
  for (int32_t i = 0; i < c; i++) {
    int32_t sum = 0;
    RQDKM_NO_UNROLL for (int32_t y = 0; y < h; y++) {
      RQDKM_NO_UNROLL for (int32_t x = 0; x < w; x++) sum += input[y * pitch + x * c + i];
    }
    const int32_t mean = divide_wide(sum, h * w);
    output[i] = (int8_t)(mean < clamp.min ? clamp.min : mean > clamp.max ? clamp.max : mean);
  }
}

int32_t rqdkm_avg_pool2d_s8(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                            const rqdkm_dims *output_dims, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const int32_t c = input_dims->c, pitch = input_dims->w * c;
  const uint32_t low = pool_bytes(params->clamp.min), high = pool_bytes(params->clamp.max);
  int32_t count = 0;
  divider d = {0, 0, 0};
  RQDKM_NO_UNROLL for (int32_t y = 0; y < output_dims->h; y++) {
    RQDKM_NO_UNROLL for (int32_t x = 0; x < output_dims->w; x++, output += c) {
      const pool_window window = pool_window_at(params, input_dims, y, x);
      if (window.h <= 0 || window.w <= 0) return RQDKM_ERROR_ARGUMENT;
      const int8_t *p = input + window.y * pitch + window.x * c;
      if (window.h * window.w > SUM_LANES_MAX) {
        average_large(p, window.h, window.w, c, pitch, params->clamp, output);
        continue;
      }
      if (window.h * window.w != count) {
        count = window.h * window.w;
        d = divider_by((uint32_t)count);
      }
      if (window.h == 2 && window.w == 2) {
        average_small(p, 2, 2, c, pitch, d, low, high, output);
      } else {
        average_small(p, window.h, window.w, c, pitch, d, low, high, output);
      }
    }
  }
  return RQDKM_OK;
}
