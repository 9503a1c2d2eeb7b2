/* SPDX-License-Identifier: Apache-2.0 */
/* This firmware has no model. The board support compiles the server of the I/O protocol against these declarations all
   the same; nobody calls it, so it is not linked. */
#ifndef RQDKM_MODEL_H
#define RQDKM_MODEL_H

#include <stdint.h>

typedef struct {
  const char *name;
  uint32_t bytes;
  float scale;
  int32_t zero_point;
  uint8_t dtype; /* 0 int8, 1 float32 */
  uint8_t rank;
  int32_t shape[5];
} rqdkm_tensor_info;

extern const char rqdkm_model_name[];
extern const uint32_t rqdkm_model_id;
extern const uint32_t rqdkm_model_input_count, rqdkm_model_output_count, rqdkm_model_layer_count;
extern const rqdkm_tensor_info rqdkm_model_inputs[], rqdkm_model_outputs[];
void *rqdkm_model_input(uint32_t index);
const void *rqdkm_model_output(uint32_t index);
int32_t rqdkm_model_run(void);
uint8_t *rqdkm_model_arena(void);
uint32_t rqdkm_model_arena_bytes(void);
extern uint32_t rqdkm_layer_cycles[];

#endif
