/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/patches.h"

static rqdkm_input_fn current;
static void *current_context;

void rqdkm_set_input(rqdkm_input_fn input, void *context) {
  current = input;
  current_context = context;
}

int32_t rqdkm_fetch_input(int32_t row, int32_t offset, int32_t rows, int32_t bytes, void *to) {
  if (current == NULL || to == NULL) return RQDKM_ERROR_ARGUMENT;
  return current(current_context, row, offset, rows, bytes, to);
}
