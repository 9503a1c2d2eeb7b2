/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"

int32_t rqdkm_unary_s8_lut_ref(int32_t count, const int8_t *table, const int8_t *input, int8_t *output) {
  if (table == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  for (int32_t i = 0; i < count; i++) output[i] = table[(uint8_t)input[i]];
  return RQDKM_OK;
}
