/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of a model as generated C, for interpreters that find them by number: `rqdkm tflm export` writes a list of
   them, the TFLM operators look the layer of a node up in it (docs/tflm.md). */
#ifndef RQDKM_LAYER_CODE_H
#define RQDKM_LAYER_CODE_H

#include <stdint.h>

#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor that a layer reads or writes. type is TFLite's number: 1 float32, 2 int32, 3 uint8, 9 int8. */
typedef struct {
  uint32_t bytes;
  uint32_t type;
} rqdkm_operand;

/* One layer. operands lists `tensors` feature maps, `constants` constants (weights in the kernel's own layout, tables)
   and the result. run gets pointers to the maps and constants in that order; result may be one of the maps where the
   plan says so, scratch is 8-byte aligned. Returns RQDKM_OK or a negative rqdkm_status. */
typedef struct {
  uint64_t code; /* fingerprint of the function and of its constants: the same layer has the same one everywhere */
  uint16_t tensors, constants;
  uint32_t scratch_bytes;
  const rqdkm_operand *operands;
  int32_t (*run)(const void *const *operands, void *result, void *scratch);
} rqdkm_layer_code;

/* The layers of one model. `next` belongs to rqdkm_add_layers; 0 at first. */
typedef struct rqdkm_layer_library {
  const rqdkm_layer_code *layers;
  int32_t count;
  struct rqdkm_layer_library *next;
} rqdkm_layer_library;

/* Makes a model's layers known; before the interpreter allocates tensors, once or more. Not reentrant. */
void rqdkm_add_layers(rqdkm_layer_library *library);
/* The layer with this fingerprint, or NULL. */
const rqdkm_layer_code *rqdkm_find_layer(uint64_t code);

#ifdef __cplusplus
}
#endif
#endif
