/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"
#include "rqdkm/memory.h"

int32_t rqdkm_concatenate_part(int32_t outer, int32_t inner, int32_t output_stride, const int8_t *input,
                               int8_t *output) {
  if (input == NULL || output == NULL || inner < 0) return RQDKM_ERROR_ARGUMENT;
  for (int32_t i = 0; i < outer; i++) {
    rqdkm_copy(output, input, inner);
    input += inner;
    output += output_stride;
  }
  return RQDKM_OK;
}
