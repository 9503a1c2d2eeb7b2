/* SPDX-License-Identifier: Apache-2.0 */
/* What all operators share: the checks when a node is prepared, and its way from tensors to a kernel.
 *
 * An operator is a class derived from Node, made in the interpreter's arena by init, with
 *     bool Read(Preparation &preparation);         reads its parameters and checks them; false after Fail
 *     int32_t Run(const Call &call) const;         runs it; RQDKM_OK or a negative rqdkm_status
 * and is registered by Registration<Class>(). */
#ifndef RQDKM_TFLM_OPERATOR_H
#define RQDKM_TFLM_OPERATOR_H

#include <new>

#include "options.h"
#include "rqdkm_tflm.h"
#include "tensorflow/lite/micro/micro_context.h"

namespace rqdkm {

/* The operands of one invocation. */
struct Call {
  const void *const *inputs; /* feature maps, then constants */
  void *result;
  void *scratch;

  template <class T>
  const T *input(int index) const {
    return static_cast<const T *>(inputs[index]);
  }
};

/* State of a node; set while it is prepared. */
struct Node {
  const rqdkm_layer_code *code = nullptr; /* generated code, or null */
  const void **inputs = nullptr;          /* constants are filled in once, feature maps at every invocation */
  int tensors = 0;                        /* feature maps among the inputs: the first ones */
  int scratch = -1;                       /* of the arena; none */
};

/* One of several layers that a node runs. */
struct Part {
  Options options;
  int first, constants; /* its constants among the node's inputs */
  bool reads, writes;   /* the node's map, its result; else scratch of the node, of which only the node knows */
  uint64_t scratch;     /* that it asks for, to be reserved by the node */
};

/* One node as its tensors and options describe it. Every check that fails leaves one line in the log. */
class Preparation {
 public:
  Preparation(TfLiteContext *context, TfLiteNode *node);
  /* The same for a part of the node: its map is input 0, its constants follow. */
  Preparation(const Preparation &whole, Part *part);

  const Options &options() const { return options_; }
  int InputCount() const;
  /* Logs what is wrong with this node; false. */
  bool Fail(const char *what) const;
  bool Fail(const char *what, int which) const;

  /* Whether the options are ours and of our version. */
  bool Begin() const;
  /* The node must have `tensors` feature maps, then `constants` constants, and one result. Sets up node.inputs. */
  bool Operands(Node *node, int tensors, int constants) const;
  /* Size and type of an input, or of the result (index -1). A constant must lie in the model, aligned to 4 bytes. */
  bool Check(const Node &node, int index, TfLiteType type, uint64_t bytes) const;
  /* Memory as long as the interpreter lives; null: the arena is too small, which is logged. */
  void *Persistent(size_t bytes) const;
  /* Memory while the node runs. */
  bool Scratch(Node *node, uint64_t bytes) const;

  /* Options that must be there, logged if not; `least` to `greatest` is what their values may be. */
  bool Integer(Key key, int32_t least, int32_t greatest, int32_t *value) const;
  bool Integers(Key key, int32_t least, int32_t greatest, int32_t *values, size_t count) const;

 private:
  bool WrongOption(Key key) const;
  /* The tensor behind an input, or the result (index -1); none: -1. */
  int Tensor(const Node &node, int index) const;

  tflite::MicroContext *context_;
  TfLiteNode *node_;
  Options options_;
  Part *part_ = nullptr;
};

/* The node's parameters are code that `rqdkm tflm export` wrote. */
bool ReadGenerated(const Preparation &preparation, Node *node);
/* Pointers of this invocation; `result` false only if the interpreter lost a tensor. */
bool Gather(TfLiteContext *context, TfLiteNode *node, const Node &state, Call *call);
TfLiteStatus Finish(const TfLiteNode *node, int32_t status);

template <class Operator>
void *Init(TfLiteContext *context, const char *, size_t) {
  void *const memory = tflite::GetMicroContext(context)->AllocatePersistentBuffer(sizeof(Operator));
  return memory == nullptr ? nullptr : new (memory) Operator();
}

template <class Operator>
TfLiteStatus Prepare(TfLiteContext *context, TfLiteNode *node) {
  Preparation preparation(context, node);
  Operator *const state = static_cast<Operator *>(node->user_data);
  if (state == nullptr) preparation.Fail("the arena is too small");
  if (state == nullptr || !preparation.Begin()) return kTfLiteError;
  const bool generated = preparation.options().Has(Key::code);
  return (generated ? ReadGenerated(preparation, state) : state->Read(preparation)) ? kTfLiteOk : kTfLiteError;
}

template <class Operator>
TfLiteStatus Invoke(TfLiteContext *context, TfLiteNode *node) {
  const Operator *const state = static_cast<const Operator *>(node->user_data);
  Call call;
  if (!Gather(context, node, *state, &call)) return kTfLiteError;
  const bool generated = state->code != nullptr;
  return Finish(node, generated ? state->code->run(call.inputs, call.result, call.scratch) : state->Run(call));
}

template <class Operator>
TFLMRegistration *Registration() {
  static TFLMRegistration registration = {Init<Operator>, nullptr, Prepare<Operator>, Invoke<Operator>, nullptr, 0,
                                          nullptr};
  return &registration;
}

}  // namespace rqdkm

#endif
