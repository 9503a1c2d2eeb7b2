/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/expand.h"
#include "rqdkm/kernels/strip.h"

void rqdkm_weights_expand(uint32_t *dst, const int8_t *src, int32_t quads) {
  const int8_t *const pairs_end = src + quads / 2 * 16;
  RQDKM_NO_UNROLL
  while (src != pairs_end) { /* one flash line: 16 weights */
    const uint32_t a = rqdkm_load32(src), b = rqdkm_load32(src + 4);
    const uint32_t c = rqdkm_load32(src + 8), d = rqdkm_load32(src + 12);
    rqdkm_store32(dst + 0, rqdkm_sxtb16(a));
    rqdkm_store32(dst + 1, rqdkm_sxtb16(b));
    rqdkm_store32(dst + 2, rqdkm_sxtb16_ror8(a));
    rqdkm_store32(dst + 3, rqdkm_sxtb16_ror8(b));
    rqdkm_store32(dst + 4, rqdkm_sxtb16(c));
    rqdkm_store32(dst + 5, rqdkm_sxtb16(d));
    rqdkm_store32(dst + 6, rqdkm_sxtb16_ror8(c));
    rqdkm_store32(dst + 7, rqdkm_sxtb16_ror8(d));
    src += 16;
    dst += 8;
  }
  if (quads % 2 != 0) {
    rqdkm_expand_weights(dst, src, 1);
  }
}
