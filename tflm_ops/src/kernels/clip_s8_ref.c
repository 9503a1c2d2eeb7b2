/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"

int32_t rqdkm_clip_s8_ref(rqdkm_clamp clamp, int32_t count, const int8_t *input, int8_t *output) {
  if (input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  for (int32_t i = 0; i < count; i++) {
    const int32_t value = input[i];
    output[i] = (int8_t)(value < clamp.min ? clamp.min : value > clamp.max ? clamp.max : value);
  }
  return RQDKM_OK;
}
