/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { P = 6 };

RQDKM_INLINE void transform_pair(uint32_t a, uint32_t b, uint32_t c, uint32_t *u) {
  uint32_t e[P];
  rqdkm_winograd_f4_weights(a, b, c, e);
  RQDKM_WINOGRAD_UNROLL
  for (int32_t j = 0; j < P; j++) {
    rqdkm_store32(u + j * RQDKM_WINOGRAD_BLOCK_U, e[j]);
  }
}

/* U[row] = G g[row] for two output channels. weights: int8 [2][channels / 4][3][3][4]. */
void rqdkm_winograd_f4x1_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  const int32_t row_words = ((channels + 15) >> 4) * P * RQDKM_WINOGRAD_BLOCK_U;
  RQDKM_NO_UNROLL
  for (int32_t co = 0; co < 2; co++) {
    RQDKM_NO_UNROLL
    for (int32_t c = 0; c < channels; c += 4) {
      uint32_t *words = u + (c >> 4) * P * RQDKM_WINOGRAD_BLOCK_U + (c & 15) + co;
      const int8_t *const end = weights + 9 * 4;
      RQDKM_NO_UNROLL
      do {
        const uint32_t x = rqdkm_load32(weights), y = rqdkm_load32(weights + 4), z = rqdkm_load32(weights + 8);
        transform_pair(rqdkm_sxtb16(x), rqdkm_sxtb16(y), rqdkm_sxtb16(z), words);
        transform_pair(rqdkm_sxtb16_ror8(x), rqdkm_sxtb16_ror8(y), rqdkm_sxtb16_ror8(z), words + 2);
        words += row_words;
        weights += 3 * 4;
      } while (weights != end);
    }
  }
}
