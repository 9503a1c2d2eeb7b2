/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"

int32_t rqdkm_pad_s8_ref(const rqdkm_pad_params *params, const int8_t *input, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  int32_t size[4], index[4];
  for (int32_t axis = 0; axis < 4; axis++)
    size[axis] = params->before[axis] + params->shape[axis] + params->after[axis];
  for (index[0] = 0; index[0] < size[0]; index[0]++) {
    for (index[1] = 0; index[1] < size[1]; index[1]++) {
      for (index[2] = 0; index[2] < size[2]; index[2]++) {
        for (index[3] = 0; index[3] < size[3]; index[3]++) {
          int32_t inside = 1, offset = 0;
          for (int32_t axis = 0; axis < 4; axis++) {
            const int32_t at = index[axis] - params->before[axis];
            if (at < 0 || at >= params->shape[axis]) inside = 0;
            offset = offset * params->shape[axis] + at;
          }
          *output++ = inside ? input[offset] : params->value;
        }
      }
    }
  }
  return RQDKM_OK;
}
