/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/layer_code.h"

#include <stddef.h>

static rqdkm_layer_library *first;

void rqdkm_add_layers(rqdkm_layer_library *library) {
  if (library == NULL) return;
  for (const rqdkm_layer_library *known = first; known != NULL; known = known->next) {
    if (known == library) return;
  }
  library->next = first;
  first = library;
}

const rqdkm_layer_code *rqdkm_find_layer(uint64_t code) {
  for (const rqdkm_layer_library *library = first; library != NULL; library = library->next) {
    for (int32_t i = 0; i < library->count; i++) {
      if (library->layers[i].code == code) return &library->layers[i];
    }
  }
  return NULL;
}
