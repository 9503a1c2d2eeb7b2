/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/kernels/depthwise_s8_plane_template.h"

int32_t rqdkm_depthwise_s8_plane(const rqdkm_depthwise_plane_params *params, const int8_t *input, const uint32_t *table,
                                 int8_t *output, void *scratch) {
  if (params == NULL || input == NULL || table == NULL || output == NULL || scratch == NULL) {
    return RQDKM_ERROR_ARGUMENT;
  }
  return rqdkm_depthwise_s8_plane_template(params, input, table, output, scratch);
}
