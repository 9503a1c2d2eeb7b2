/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/depthwise_direct.h"

#include <stddef.h>

int32_t rqdkm_depthwise_direct(const rqdkm_depthwise_direct_params *params, const int8_t *input, const uint32_t *table,
                               int8_t *output, void *scratch) {
  if (params == NULL || input == NULL || table == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  return rqdkm_depthwise_direct_template(params, input, table, output, scratch);
}
