/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see README.md: the list of operators a program knows. */
#ifndef RQDKM_INTERFACE_MICRO_MUTABLE_OP_RESOLVER_H
#define RQDKM_INTERFACE_MICRO_MUTABLE_OP_RESOLVER_H

#include <string.h>

#include "tensorflow/lite/micro/micro_common.h"

namespace tflite {

enum BuiltinOperator : int32_t { BuiltinOperator_CUSTOM = 32 };

/* The interpreter's view of it. The parser turns a builtin operator's options into its parameters. */
class MicroOpResolver {
 public:
  using Parser = TfLiteStatus (*)(const void *, void *, void **);
  virtual const TFLMRegistration *FindOp(BuiltinOperator op) const = 0;
  virtual const TFLMRegistration *FindOp(const char *name) const = 0;
  virtual Parser GetOpDataParser(BuiltinOperator op) const = 0;
  virtual ~MicroOpResolver() = default;
};

/* Up to `capacity` operators; here without the builtin ones. */
template <unsigned int capacity>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  const TFLMRegistration *FindOp(BuiltinOperator) const override { return nullptr; }
  const TFLMRegistration *FindOp(const char *name) const override {
    for (unsigned int i = 0; i < count_; i++) {
      const TFLMRegistration &found = registrations_[i];
      if (found.builtin_code == BuiltinOperator_CUSTOM && strcmp(found.custom_name, name) == 0) return &found;
    }
    return nullptr;
  }
  Parser GetOpDataParser(BuiltinOperator) const override { return nullptr; }

  TfLiteStatus AddCustom(const char *name, const TFLMRegistration *registration) {
    if (count_ >= capacity || FindOp(name) != nullptr) return kTfLiteError;
    TFLMRegistration &added = registrations_[count_++];
    added = *registration;
    added.builtin_code = BuiltinOperator_CUSTOM;
    added.custom_name = name;
    return kTfLiteOk;
  }

 private:
  TFLMRegistration registrations_[capacity];
  unsigned int count_ = 0;
  BuiltinOperator builtins_[capacity];
  Parser parsers_[capacity];
  unsigned int builtin_count_ = 0;
};

}  // namespace tflite

#endif
