/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM on the chip: prepares and invokes the nodes of a model that Python wrote out as tables (nodes.h),
   in a MicroContext of its own, behind the interface of rqdkm's firmware. */
#include <string.h>

#include <new>

#include "nodes.h"
#include "rqdkm_model.h"
#include "rqdkm_tflm.h"
#include "tensorflow/lite/micro/micro_context.h"
#include "tensorflow/lite/micro/micro_log.h"

extern "C" rqdkm_layer_library RQDKM_LAYERS;

void MicroPrintf(const char *, ...) {}

namespace {

alignas(16) uint8_t arena[kArenaBytes], scratch[kScratchBytes], records[8192];
TfLiteEvalTensor tensors[kTensorCount];
TfLiteNode nodes[kNodeCount];

class Context : public tflite::MicroContext {
 public:
  void *AllocatePersistentBuffer(size_t bytes) override {
    uint8_t *const found = records + used_;
    used_ += (bytes + 7) / 8 * 8;
    return used_ <= sizeof records ? found : nullptr;
  }
  TfLiteStatus RequestScratchBufferInArena(size_t bytes, int *index) override {
    *index = 0; /* nodes run one after the other: all have the same */
    return bytes <= kScratchBytes ? kTfLiteOk : kTfLiteError;
  }
  void *GetScratchBuffer(int) override { return scratch; }
  TfLiteTensor *AllocateTempTfLiteTensor(int index) override {
    const TensorTable &t = kTensors[index];
    temporary_ = TfLiteTensor();
    temporary_.data = tensors[index].data;
    temporary_.bytes = t.bytes;
    temporary_.type = static_cast<TfLiteType>(t.type);
    temporary_.allocation_type = t.data != nullptr ? kTfLiteMmapRo : kTfLiteArenaRw;
    return &temporary_;
  }
  void DeallocateTempTfLiteTensor(TfLiteTensor *) override {}
  uint8_t *AllocateTempBuffer(size_t, size_t) override { return nullptr; }
  void DeallocateTempBuffer(uint8_t *) override {}
  TfLiteEvalTensor *GetEvalTensor(int index) override { return &tensors[index]; }
  void operator delete(void *) {} /* is never called, and needs no heap */

 private:
  TfLiteTensor temporary_;
  size_t used_ = 0;
};

Context &TheContext() {
  alignas(Context) static uint8_t memory[sizeof(Context)];
  static Context *const context = new (memory) Context();
  return *context;
}

TfLiteIntArray *Array(const int32_t *numbers) { /* a count, then as many */
  TfLiteIntArray *const array = reinterpret_cast<TfLiteIntArray *>(
      TheContext().AllocatePersistentBuffer(sizeof(int) * (static_cast<size_t>(numbers[0]) + 1)));
  array->size = static_cast<int>(numbers[0]);
  for (int32_t i = 0; i < numbers[0]; i++) array->data[i] = static_cast<int>(numbers[i + 1]);
  return array;
}

TfLiteContext context;
bool ready;

int32_t Prepare() {
  if (ready) return 0;
  rqdkm_add_layers(&RQDKM_LAYERS);
  context.impl_ = &TheContext();
  for (int i = 0; i < kTensorCount; i++) {
    const TensorTable &t = kTensors[i];
    tensors[i].data.data = t.data != nullptr ? const_cast<void *>(t.data) : arena + t.offset;
    tensors[i].type = static_cast<TfLiteType>(t.type);
  }
  for (int i = 0; i < kNodeCount; i++) {
    const NodeTable &n = kNodes[i];
    TFLMRegistration *const operation = n.registration();
    nodes[i].inputs = Array(n.inputs);
    nodes[i].outputs = Array(n.outputs);
    nodes[i].custom_initial_data = n.options;
    nodes[i].custom_initial_data_size = n.option_bytes;
    nodes[i].user_data = operation->init(&context, static_cast<const char *>(n.options), size_t(n.option_bytes));
    if (operation->prepare(&context, &nodes[i]) != kTfLiteOk) return -100 - i;
  }
  ready = true;
  return 0;
}

}  // namespace

extern "C" {

void *__dso_handle = nullptr;

void *rqdkm_model_input(uint32_t index) { return Prepare() == 0 ? tensors[kInputs[index]].data.data : nullptr; }
const void *rqdkm_model_output(uint32_t index) { return tensors[kOutputs[index]].data.data; }
uint8_t *rqdkm_model_arena(void) { return arena; }
uint32_t rqdkm_model_arena_bytes(void) { return kArenaBytes; }
uint32_t rqdkm_layer_cycles[1];

int32_t rqdkm_model_run(void) {
  for (int i = 0; i < kNodeCount; i++) {
    if (kNodes[i].registration()->invoke(&context, &nodes[i]) != kTfLiteOk) return -1 - i;
  }
  return 0;
}

}  // extern "C"
