/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/bits.h"

/* Four elements -> two bytes, in the low half. */
RQDKM_INLINE uint32_t gather(uint32_t elements) {
  const uint32_t low = elements & 0x0f0f0f0fU;
  const uint32_t bytes = rqdkm_uxtb16(low | low >> 4);
  return bytes | bytes >> 8;
}

void rqdkm_pack_s4(const int8_t *values, int32_t count, void *packed) {
  uint8_t *p = (uint8_t *)packed;
  RQDKM_NO_UNROLL for (; count >= 8; count -= 8, p += 4, values += 8) {
    const uint32_t first = rqdkm_load32(values), second = rqdkm_load32(values + 4);
    rqdkm_store32(p, rqdkm_pack_lo_lo(gather(first), gather(second)));
  }
  RQDKM_NO_UNROLL for (; count > 0; count -= 2, values += 2) {
    const int32_t high = count > 1 ? values[1] & 0xf : 0;
    *p++ = (uint8_t)((values[0] & 0xf) | high << 4);
  }
}
