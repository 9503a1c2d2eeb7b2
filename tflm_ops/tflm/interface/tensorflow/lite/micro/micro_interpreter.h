/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see ../../../README.md: the interpreter as a program uses it. */
#ifndef RQDKM_INTERFACE_MICRO_INTERPRETER_H
#define RQDKM_INTERFACE_MICRO_INTERPRETER_H

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflite {

class MicroResourceVariables;
class MicroProfilerInterface;

class MicroInterpreter {
 public:
  MicroInterpreter(const Model *model, const MicroOpResolver &resolver, uint8_t *arena, size_t arena_bytes,
                   MicroResourceVariables *variables = nullptr, MicroProfilerInterface *profiler = nullptr,
                   bool preserve_all_tensors = false);
  ~MicroInterpreter();
  MicroInterpreter(const MicroInterpreter &) = delete;
  MicroInterpreter &operator=(const MicroInterpreter &) = delete;

  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor *input(size_t index);
  TfLiteTensor *output(size_t index);

 private:
  alignas(16) uint8_t members_[4096]; /* more than it has */
};

}  // namespace tflite

#endif
