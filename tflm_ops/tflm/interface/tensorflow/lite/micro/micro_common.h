/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see README.md: what an operator registers. */
#ifndef RQDKM_INTERFACE_MICRO_COMMON_H
#define RQDKM_INTERFACE_MICRO_COMMON_H

#include "tensorflow/lite/c/common.h"

/* The functions of an operator. init gets the operator's options and returns the node's user_data; free and reset may
   be null. custom_name and builtin_code are filled in by the resolver. */
struct TFLMRegistration {
  void *(*init)(TfLiteContext *context, const char *options, size_t bytes);
  void (*free)(TfLiteContext *context, void *user_data);
  TfLiteStatus (*prepare)(TfLiteContext *context, TfLiteNode *node);
  TfLiteStatus (*invoke)(TfLiteContext *context, TfLiteNode *node);
  void (*reset)(TfLiteContext *context, void *user_data);
  int32_t builtin_code;
  const char *custom_name;
};

#endif
