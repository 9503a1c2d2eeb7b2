/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/patches.h"

int32_t rqdkm_is_outlier_patch(rqdkm_outliers outliers, const void *from, int32_t stride, int32_t rows, int32_t bytes) {
  int32_t left = outliers.count;
  const int8_t *row = (const int8_t *)from;
  for (; rows > 0; rows--, row += stride) {
    for (int32_t i = 0; i < bytes; i++) {
      if (row[i] >= outliers.low && row[i] <= outliers.high) continue;
      if (--left <= 0) return 1;
    }
  }
  return 0;
}
