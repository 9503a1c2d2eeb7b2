/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/memory.h"

#include "rqdkm/arch.h"

void rqdkm_copy(void *to, const void *from, int32_t bytes) {
  uint8_t *d = (uint8_t *)to;
  const uint8_t *s = (const uint8_t *)from;
#if RQDKM_DSP
  if ((((uintptr_t)d | (uintptr_t)s) & 3U) == 0U) { /* LDM and STM fault on unaligned addresses */
    RQDKM_NO_UNROLL for (; bytes >= 32; bytes -= 32) {
      __asm volatile(
          "ldmia %[s]!, {r3-r6, r8-r10, r12}\n\t"
          "stmia %[d]!, {r3-r6, r8-r10, r12}"
          : [d] "+r"(d), [s] "+r"(s)
          :
          : "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r12", "memory");
    }
  }
#endif
  for (; bytes >= 16; bytes -= 16, d += 16, s += 16) {
    const uint32_t a = rqdkm_load32(s), b = rqdkm_load32(s + 4), c = rqdkm_load32(s + 8), e = rqdkm_load32(s + 12);
    rqdkm_store32(d, a);
    rqdkm_store32(d + 4, b);
    rqdkm_store32(d + 8, c);
    rqdkm_store32(d + 12, e);
  }
  for (; bytes >= 4; bytes -= 4, d += 4, s += 4) rqdkm_store32(d, rqdkm_load32(s));
  RQDKM_NO_UNROLL for (; bytes > 0; bytes--) {
    *d++ = *s++;
    RQDKM_BARRIER(); /* not to be turned into a call of memcpy */
  }
}

void rqdkm_fill(void *to, int32_t value, int32_t bytes) {
  uint8_t *d = (uint8_t *)to;
  const uint32_t word = ((uint32_t)value & 0xffU) * 0x01010101U;
  for (; bytes >= 16; bytes -= 16, d += 16) {
    rqdkm_store32(d, word);
    rqdkm_store32(d + 4, word);
    rqdkm_store32(d + 8, word);
    rqdkm_store32(d + 12, word);
    RQDKM_BARRIER();
  }
  for (; bytes >= 4; bytes -= 4, d += 4) {
    rqdkm_store32(d, word);
    RQDKM_BARRIER();
  }
  RQDKM_NO_UNROLL for (; bytes > 0; bytes--) {
    *d++ = (uint8_t)value;
    RQDKM_BARRIER();
  }
}
