/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { EDGE = 6, POSITION = RQDKM_WINOGRAD_BLOCK_U };

/* U = G g G^T for two output channels. weights: int8 [2][3][3][channels]. */
void rqdkm_winograd_f4x4_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  RQDKM_NO_UNROLL
  for (int32_t co = 0; co < 2; co++) {
    RQDKM_NO_UNROLL
    for (int32_t c = 0; c < channels; c += 4) {
      uint32_t *block = u + (c >> 4) * EDGE * EDGE * POSITION + (c & 15) + co;
      RQDKM_NO_UNROLL
      for (uint32_t half = 0; half < 2; half++) {
        uint32_t t[3 * EDGE]; /* G g: [i][x] */
        RQDKM_NO_UNROLL
        for (int32_t x = 0; x < 3; x++) {
          const int8_t *const w = weights + x * channels + c;
          uint32_t e[EDGE];
          rqdkm_winograd_f4_weights(rqdkm_sxtb16(rqdkm_load32(w) >> (8 * half)),
                                    rqdkm_sxtb16(rqdkm_load32(w + 3 * channels) >> (8 * half)),
                                    rqdkm_sxtb16(rqdkm_load32(w + 6 * channels) >> (8 * half)), e);
          RQDKM_WINOGRAD_UNROLL
          for (int32_t i = 0; i < EDGE; i++) {
            t[3 * i + x] = e[i];
          }
        }
        uint32_t *out = block + 2 * half;
        const uint32_t *in = t, *const end = t + 3 * EDGE;
        RQDKM_NO_UNROLL
        do {
          uint32_t e[EDGE];
          rqdkm_winograd_f4_weights(in[0], in[1], in[2], e);
          in += 3;
          RQDKM_WINOGRAD_UNROLL
          for (int32_t j = 0; j < EDGE; j++) {
            rqdkm_store32(out + j * POSITION, e[j]);
          }
          out += EDGE * POSITION;
        } while (in != end);
      }
    }
    weights += 9 * channels;
  }
}
