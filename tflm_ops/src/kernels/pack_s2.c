/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/bits.h"

/* Four elements -> a byte; bits above it are not cleared. */
RQDKM_INLINE uint8_t gather(uint32_t elements) {
  const uint32_t low = elements & 0x03030303U, pairs = low | low >> 6;
  return (uint8_t)(pairs | pairs >> 12);
}

void rqdkm_pack_s2(const int8_t *values, int32_t count, void *packed) {
  uint8_t *p = (uint8_t *)packed;
  RQDKM_NO_UNROLL for (; count >= 8; count -= 8, p += 2, values += 8) {
    const uint32_t first = rqdkm_load32(values), second = rqdkm_load32(values + 4);
    p[0] = gather(first);
    p[1] = gather(second);
  }
  RQDKM_NO_UNROLL for (; count > 0; count -= 4, values += 4) {
    uint32_t byte = 0;
    for (int32_t i = 0; i < 4 && i < count; i++) byte |= ((uint32_t)values[i] & 3U) << 2 * i;
    *p++ = (uint8_t)byte;
  }
}
