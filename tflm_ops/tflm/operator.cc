/* SPDX-License-Identifier: Apache-2.0 */
#include "operator.h"

#include "tensorflow/lite/micro/micro_log.h"

namespace rqdkm {
namespace {

size_t OptionBytes(const TfLiteNode *node) {
  return node->custom_initial_data_size > 0 ? static_cast<size_t>(node->custom_initial_data_size) : 0;
}

/* A tensor while it is looked at. */
class Temporary {
 public:
  Temporary(tflite::MicroContext *context, int index)
      : context_(context), tensor_(index < 0 ? nullptr : context->AllocateTempTfLiteTensor(index)) {}
  ~Temporary() {
    if (tensor_ != nullptr) context_->DeallocateTempTfLiteTensor(tensor_);
  }
  Temporary(const Temporary &) = delete;
  Temporary &operator=(const Temporary &) = delete;
  const TfLiteTensor *get() const { return tensor_; }

 private:
  tflite::MicroContext *context_;
  TfLiteTensor *tensor_;
};

}  // namespace

Preparation::Preparation(TfLiteContext *context, TfLiteNode *node)
    : context_(tflite::GetMicroContext(context)), node_(node), options_(node->custom_initial_data, OptionBytes(node)) {}

Preparation::Preparation(const Preparation &whole, Part *part)
    : context_(whole.context_), node_(whole.node_), options_(part->options), part_(part) {}

int Preparation::InputCount() const {
  if (part_ != nullptr) return 1 + part_->constants;
  return node_->inputs == nullptr ? 0 : node_->inputs->size;
}

int Preparation::Tensor(const Node &node, int index) const {
  if (part_ == nullptr) return index < 0 ? node_->outputs->data[0] : node_->inputs->data[index];
  if (index < 0) return part_->writes ? node_->outputs->data[0] : -1;
  if (index < node.tensors) return part_->reads ? node_->inputs->data[0] : -1;
  return node_->inputs->data[part_->first + index - node.tensors];
}

bool Preparation::Fail(const char *what) const {
  MicroPrintf("rqdkm: layer \"%s\": %s", options_.Text(Key::layer), what);
  return false;
}

bool Preparation::Fail(const char *what, int which) const {
  MicroPrintf("rqdkm: layer \"%s\": %s (operand %d)", options_.Text(Key::layer), what, which);
  return false;
}

bool Preparation::WrongOption(Key key) const {
  const char *const reason = options_.Has(key) ? "has a value that cannot be" : "is missing";
  MicroPrintf("rqdkm: layer \"%s\": option \"%s\" %s", options_.Text(Key::layer), KeyName(key), reason);
  return false;
}

bool Preparation::Begin() const {
  int64_t version = 0;
  if (!options_.valid()) return Fail("its options are damaged");
  if (!options_.Integer(Key::version, &version)) return WrongOption(Key::version);
  if (version == RQDKM_OPTIONS_VERSION) return true;
  MicroPrintf("rqdkm: layer \"%s\": options of version %d, these operators read version %d: export the model anew",
              options_.Text(Key::layer), static_cast<int>(version), RQDKM_OPTIONS_VERSION);
  return false;
}

bool Preparation::Operands(Node *node, int tensors, int constants) const {
  if (node_->inputs == nullptr || node_->outputs == nullptr || node_->outputs->size != 1 ||
      InputCount() != tensors + constants) {
    return Fail("it has another number of inputs or outputs than its options say");
  }
  node->tensors = tensors;
  node->inputs = static_cast<const void **>(Persistent(sizeof(void *) * static_cast<size_t>(InputCount())));
  if (node->inputs == nullptr) return false;
  for (int i = 0; i < InputCount(); i++) {
    const int index = Tensor(*node, i);
    if (part_ != nullptr && i < tensors) continue; /* known when it runs */
    const TfLiteEvalTensor *const tensor = index < 0 ? nullptr : context_->GetEvalTensor(index);
    if (tensor == nullptr) return Fail("the model has no such tensor", i);
    node->inputs[i] = tensor->data.data;
  }
  return true;
}

bool Preparation::Check(const Node &node, int index, TfLiteType type, uint64_t bytes) const {
  const int number = Tensor(node, index);
  if (number < 0) return true; /* scratch */
  const Temporary tensor(context_, number);
  if (tensor.get() == nullptr) return Fail("the arena is too small");
  if (tensor.get()->type != type) return Fail("a tensor has another type than the layer takes", index);
  if (tensor.get()->bytes != bytes) return Fail("a tensor has another size than the layer takes", index);
  if (index < node.tensors) return true;
  const void *const data = node.inputs[index];
  if (tensor.get()->allocation_type != kTfLiteMmapRo || (data == nullptr && bytes > 0)) {
    return Fail("a constant is not in the model", index);
  }
  if ((reinterpret_cast<uintptr_t>(data) & 3) != 0) {
    return Fail("the model is not aligned: declare its array alignas(16)", index);
  }
  return true;
}

void *Preparation::Persistent(size_t bytes) const {
  void *const memory = context_->AllocatePersistentBuffer(bytes);
  if (memory == nullptr) Fail("the arena is too small");
  return memory;
}

bool Preparation::Scratch(Node *node, uint64_t bytes) const {
  if (bytes == 0) return true;
  if (bytes > INT32_MAX) return Fail("its sizes are out of range");
  if (part_ != nullptr) {
    part_->scratch = bytes;
    return true;
  }
  if (context_->RequestScratchBufferInArena(static_cast<size_t>(bytes), &node->scratch) == kTfLiteOk) return true;
  return Fail("the arena is too small for its scratch");
}

bool Preparation::Integer(Key key, int32_t least, int32_t greatest, int32_t *value) const {
  int64_t found = 0;
  if (!options_.Integer(key, &found) || found < least || found > greatest) return WrongOption(key);
  *value = static_cast<int32_t>(found);
  return true;
}

bool Preparation::Integers(Key key, int32_t least, int32_t greatest, int32_t *values, size_t count) const {
  if (!options_.Integers(key, values, count)) return WrongOption(key);
  for (size_t i = 0; i < count; i++) {
    if (values[i] < least || values[i] > greatest) return WrongOption(key);
  }
  return true;
}

bool ReadGenerated(const Preparation &preparation, Node *node) {
  int64_t code = 0;
  const bool readable = preparation.options().Integer(Key::code, &code);
  const rqdkm_layer_code *const found = readable ? rqdkm_find_layer(static_cast<uint64_t>(code)) : nullptr;
  if (found == nullptr) {
    return preparation.Fail(
        "its code is not linked: compile rqdkm_layers.c of the same rqdkm tflm export, and call rqdkm_add_layers "
        "first");
  }
  if (!preparation.Operands(node, found->tensors, found->constants)) return false;
  const int inputs = found->tensors + found->constants;
  for (int i = 0; i <= inputs; i++) {
    const rqdkm_operand &operand = found->operands[i];
    const TfLiteType type = static_cast<TfLiteType>(operand.type);
    if (!preparation.Check(*node, i == inputs ? -1 : i, type, operand.bytes)) return false;
  }
  if (!preparation.Scratch(node, found->scratch_bytes)) return false;
  node->code = found;
  return true;
}

bool Gather(TfLiteContext *context, TfLiteNode *node, const Node &state, Call *call) {
  tflite::MicroContext *const micro = tflite::GetMicroContext(context);
  for (int i = 0; i < state.tensors; i++) {
    const TfLiteEvalTensor *const tensor = micro->GetEvalTensor(node->inputs->data[i]);
    if (tensor == nullptr) return false;
    state.inputs[i] = tensor->data.data;
  }
  const TfLiteEvalTensor *const result = micro->GetEvalTensor(node->outputs->data[0]);
  if (result == nullptr) return false;
  *call = {state.inputs, result->data.data, state.scratch < 0 ? nullptr : micro->GetScratchBuffer(state.scratch)};
  return true;
}

TfLiteStatus Finish(const TfLiteNode *node, int32_t status) {
  if (status == RQDKM_OK) return kTfLiteOk;
  const Options options(node->custom_initial_data, OptionBytes(node));
  MicroPrintf("rqdkm: layer \"%s\": the kernel returned %d", options.Text(Key::layer), static_cast<int>(status));
  return kTfLiteError;
}

}  // namespace rqdkm
