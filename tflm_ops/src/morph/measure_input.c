/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/morph.h"

/* log2 of x >= 1 in 1/256: the exponent, and the mantissa in a straight line; at most 0.086 (0.26 dB) too low. */
static int32_t log2_q8(uint32_t x) {
  int32_t exponent = 31;
  while ((x & 0x80000000u) == 0) {
    x <<= 1;
    exponent--;
  }
  return exponent * 256 + (int32_t)((x >> 23) & 0xffu);
}

void rqdkm_morph_measure_input(rqdkm_morph_state *state, const int8_t *input, int32_t count, int32_t pitch,
                               int32_t most) {
  const int32_t limit = most < 16 ? 16 : most > 4096 ? 4096 : most;
  const int32_t words = (count - pitch) / 4, wanted = limit / 4;
  const int32_t step = words > wanted ? (words + wanted - 1) / wanted : 1;
  int32_t n = 0, sum = 0, squares = 0, steps = 0; /* of at most 4096 values: below 2^26, and 2^28 for steps */
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < words; i += step) {
    const uint32_t a = rqdkm_load32(input + 4 * i), b = rqdkm_load32(input + 4 * i + pitch);
    const uint32_t even = rqdkm_sxtb16(a), odd = rqdkm_sxtb16_ror8(a);
    const uint32_t d = rqdkm_ssub16(even, rqdkm_sxtb16(b)), e = rqdkm_ssub16(odd, rqdkm_sxtb16_ror8(b));
    sum = rqdkm_smlad(even, 0x00010001u, rqdkm_smlad(odd, 0x00010001u, sum));
    squares = rqdkm_smlad(even, even, rqdkm_smlad(odd, odd, squares));
    steps = rqdkm_smlad(d, d, rqdkm_smlad(e, e, steps));
    n += 4;
  }
  state->mean = state->variance = state->snr = 0.0f;
  if (n == 0) {
    return;
  }
  /* sixteenths, rounded down; sum^2 / n <= squares */
  const uint32_t mean_square = (uint32_t)(((int64_t)sum * sum) / n);
  const uint32_t variance = (uint32_t)(((uint64_t)((uint32_t)squares - mean_square) * 16u) / (uint32_t)n);
  const uint32_t noise = (uint32_t)(((uint64_t)(uint32_t)steps * 8u) / (uint32_t)n);
  const uint32_t signal = variance > noise ? variance - noise : 0u;
  state->mean = (float)sum / (float)n;
  state->variance = (float)variance / 16.0f;
  state->snr = (float)(log2_q8(signal + 1u) - log2_q8(noise + 1u)) * (3.0103f / 256.0f);
}
