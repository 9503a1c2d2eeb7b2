/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"
#include "rqdkm/memory.h"

/* The last axes from `axis` on: returns the output behind the block. */
static int8_t *pad_axis(const rqdkm_pad_params *p, int32_t axis, const int32_t *bytes, const int8_t **input,
                        int8_t *output) {
  const int32_t block = axis == 3 ? 1 : bytes[axis + 1]; /* output bytes per step along this axis */
  rqdkm_fill(output, p->value, p->before[axis] * block);
  output += p->before[axis] * block;
  int32_t inner_padding = 0;
  for (int32_t a = axis + 1; a < 4; a++) inner_padding |= p->before[a] | p->after[a];
  if (inner_padding == 0) {
    rqdkm_copy(output, *input, p->shape[axis] * block);
    *input += p->shape[axis] * block;
    output += p->shape[axis] * block;
  } else {
    for (int32_t i = 0; i < p->shape[axis]; i++) output = pad_axis(p, axis + 1, bytes, input, output);
  }
  rqdkm_fill(output, p->value, p->after[axis] * block);
  return output + p->after[axis] * block;
}

int32_t rqdkm_pad_s8(const rqdkm_pad_params *params, const int8_t *input, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  int32_t bytes[4], product = 1; /* output bytes of one index of the axis before */
  for (int32_t axis = 3; axis >= 0; axis--) {
    product *= params->before[axis] + params->shape[axis] + params->after[axis];
    bytes[axis] = product;
  }
  (void)pad_axis(params, 0, bytes, &input, output);
  return RQDKM_OK;
}
