/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/memory.h"
#include "rqdkm/patches.h"

void rqdkm_copy_rows(void *to, int32_t to_stride, const void *from, int32_t from_stride, int32_t rows, int32_t bytes) {
  uint8_t *target = (uint8_t *)to;
  const uint8_t *source = (const uint8_t *)from;
  for (; rows > 0; rows--, target += to_stride, source += from_stride) rqdkm_copy(target, source, bytes);
}
