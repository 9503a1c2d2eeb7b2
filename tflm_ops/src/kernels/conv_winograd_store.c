/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_output.h"

void rqdkm_winograd_store_tiles(const int8_t *from, int32_t tile, const rqdkm_winograd_place *place, int32_t tiles,
                                int8_t *out, int32_t step, int32_t pitch) {
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < tiles; i++, place++, from += tile * tile) {
    RQDKM_NO_UNROLL
    for (int32_t y = 0; y < place->rows; y++) {
      RQDKM_NO_UNROLL
      for (int32_t x = 0; x < place->cols; x++) {
        out[place->offset + y * pitch + x * step] = from[y * tile + x];
      }
    }
  }
}
