/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see README.md: nodes and tensors as a kernel sees them. */
#ifndef RQDKM_INTERFACE_COMMON_H
#define RQDKM_INTERFACE_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

/* Numbers of the schema; those that our tensors have. */
typedef enum {
  kTfLiteNoType = 0,
  kTfLiteFloat32 = 1,
  kTfLiteInt32 = 2,
  kTfLiteUInt8 = 3,
  kTfLiteInt16 = 7,
  kTfLiteInt8 = 9,
} TfLiteType;

/* Where a tensor's bytes are: in the model, or in the arena. */
typedef enum {
  kTfLiteMemNone = 0,
  kTfLiteMmapRo = 1,
  kTfLiteArenaRw = 2,
  kTfLiteArenaRwPersistent = 3,
} TfLiteAllocationType;

/* `size` integers. */
typedef struct TfLiteIntArray {
  int size;
  int data[];
} TfLiteIntArray;

typedef union {
  void *data;
  int8_t *int8;
  uint8_t *uint8;
  int32_t *i32;
} TfLitePtrUnion;

/* A tensor while the model runs. */
typedef struct TfLiteEvalTensor {
  TfLitePtrUnion data;
  TfLiteIntArray *dims;
  TfLiteType type;
} TfLiteEvalTensor;

/* All that is known of a tensor; exists while a kernel prepares. */
typedef struct TfLiteTensor {
  struct {
    int type;
    void *params;
  } quantization;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  TfLitePtrUnion data;
  TfLiteIntArray *dims;
  size_t bytes;
  TfLiteType type;
  TfLiteAllocationType allocation_type;
  bool is_variable;
} TfLiteTensor;

/* One operator of the model. inputs and outputs are numbers of tensors; user_data is what init returned. */
typedef struct TfLiteNode {
  TfLiteIntArray *inputs, *outputs, *intermediates;
  void *user_data;
  void *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
} TfLiteNode;

/* The head of TFLM's structure: impl_ leads to the MicroContext, nothing else is used. */
typedef struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(struct TfLiteContext *context, TfLiteIntArray **plan);
  TfLiteTensor *tensors;
  void *impl_;
} TfLiteContext;

#ifdef __cplusplus
}
#endif
#endif
