/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see README.md: the kernel API proper. */
#ifndef RQDKM_INTERFACE_MICRO_CONTEXT_H
#define RQDKM_INTERFACE_MICRO_CONTEXT_H

#include "tensorflow/lite/c/common.h"

namespace tflite {

/* Calls go through the table of virtual functions, whose order this is; what comes after GetEvalTensor is not used. */
class MicroContext {
 public:
  virtual ~MicroContext() = default;
  /* Memory for as long as the interpreter lives; in init and prepare. Null: the arena is full. */
  virtual void *AllocatePersistentBuffer(size_t bytes) = 0;
  /* In prepare: memory for the time of an invocation, whose address GetScratchBuffer tells then. */
  virtual TfLiteStatus RequestScratchBufferInArena(size_t bytes, int *index) = 0;
  virtual void *GetScratchBuffer(int index) = 0;
  /* In prepare: a tensor by its number, to be given back before prepare returns. */
  virtual TfLiteTensor *AllocateTempTfLiteTensor(int tensor) = 0;
  virtual void DeallocateTempTfLiteTensor(TfLiteTensor *tensor) = 0;
  virtual uint8_t *AllocateTempBuffer(size_t bytes, size_t alignment) = 0;
  virtual void DeallocateTempBuffer(uint8_t *buffer) = 0;
  virtual TfLiteEvalTensor *GetEvalTensor(int tensor) = 0;
};

inline MicroContext *GetMicroContext(const TfLiteContext *context) {
  return reinterpret_cast<MicroContext *>(context->impl_);
}

}  // namespace tflite

#endif
