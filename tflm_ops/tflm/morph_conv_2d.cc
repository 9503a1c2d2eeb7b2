/* SPDX-License-Identifier: Apache-2.0 */
/* A morphing layer without generated code: kernels of portable convolutions, one after the other. Results between them
   lie at the start of the scratch, by turns in two rooms, and the scratch of a layer lies behind both. All kernels are
   checked when the node is prepared, and share one piece of scratch. */
#include "conv_2d.h"
#include "depthwise_conv_2d.h"
#include "rqdkm/morph.h"

namespace rqdkm {
namespace {

constexpr int32_t kMostLayers = 16; /* of a kernel */

/* One layer of a kernel. */
struct Step {
  Node *node;
  int32_t (*run)(const Node &node, const Call &call);
  uint32_t source, target, free; /* in scratch; first and last layers read and write the node's maps */
};

/* What a layer takes and gives, for the next one and for the scratch. */
struct Ends {
  rqdkm_dims input, output;
  int32_t bits[2];
  uint64_t bytes; /* of the result */
};

bool Same(const rqdkm_dims &a, const rqdkm_dims &b) { return a.h == b.h && a.w == b.w && a.c == b.c; }

template <class Operator>
bool Make(const Preparation &p, Part *part, Step *step, Ends *ends) {
  void *const memory = p.Persistent(sizeof(Operator));
  if (memory == nullptr) return false;
  Operator *const made = new (memory) Operator();
  Preparation own(p, part);
  if (!made->Read(own)) return false;
  step->node = made;
  step->run = [](const Node &node, const Call &call) { return static_cast<const Operator &>(node).Run(call); };
  const int32_t bits = made->maps.result_bits();
  *ends = {made->g.input, made->g.output, {made->maps.bits(0), bits}, 0};
  ends->bytes = static_cast<uint64_t>(made->maps.result_count()) * static_cast<uint64_t>(bits) / 8;
  return true;
}

struct MorphConv2d : Node {
  bool Read(Preparation &p);
  int32_t Run(const Call &call) const;

 private:
  bool ReadKernel(const Preparation &p, int32_t kernel, int *constant, uint64_t *scratch);

  int32_t kernels = 0, safe = 0;
  int32_t first[RQDKM_MORPH_KERNELS + 1]; /* step of every kernel, and behind the last one */
  Step *steps = nullptr;
  int32_t *ops = nullptr, *constants = nullptr; /* of every step */
};

bool MorphConv2d::Read(Preparation &p) {
  int32_t lengths[RQDKM_MORPH_KERNELS];
  size_t count = 0;
  if (p.options().Length(Key::kernels, &count) && (count < 1 || count > RQDKM_MORPH_KERNELS)) {
    return p.Fail("it has 1 to 5 kernels");
  }
  kernels = static_cast<int32_t>(count);
  if (!p.Integers(Key::kernels, 1, kMostLayers, lengths, count == 0 ? 1 : count)) return false;
  if (!p.Integer(Key::safe, 0, kernels - 1, &safe)) return false;
  first[0] = 0;
  for (int32_t i = 0; i < kernels; i++) first[i + 1] = first[i] + lengths[i];
  const size_t layers = static_cast<size_t>(first[kernels]);
  steps = static_cast<Step *>(p.Persistent(layers * sizeof(Step)));
  ops = static_cast<int32_t *>(p.Persistent(2 * layers * sizeof(int32_t)));
  if (steps == nullptr || ops == nullptr) return false;
  constants = ops + layers;
  if (!p.Integers(Key::ops, 0, 1, ops, layers)) return false;
  if (!p.Integers(Key::constants, 1, kReferenceConstants, constants, layers)) return false;
  int all = 0;
  for (size_t i = 0; i < layers; i++) all += constants[i];
  if (!p.Operands(this, 1, all)) return false;
  uint64_t scratch = 0;
  int constant = 1;
  for (int32_t kernel = 0; kernel < kernels; kernel++) {
    if (!ReadKernel(p, kernel, &constant, &scratch)) return false;
  }
  return p.Scratch(this, scratch);
}

bool MorphConv2d::ReadKernel(const Preparation &p, int32_t kernel, int *constant, uint64_t *scratch) {
  uint64_t rooms[2] = {0, 0}, needed[kMostLayers];
  Ends before{};
  const int32_t count = first[kernel + 1] - first[kernel];
  for (int32_t i = 0; i < count; i++) {
    const int32_t at = first[kernel] + i;
    const bool last = i + 1 == count;
    Step *const step = new (&steps[at]) Step();
    Part part = {Options(), *constant, constants[at], i == 0, last, 0};
    if (!p.options().Map(Key::steps, static_cast<size_t>(at), &part.options)) {
      return p.Fail("a layer of a kernel has no options");
    }
    Ends ends{};
    if (!(ops[at] == 0 ? Make<Conv2d> : Make<DepthwiseConv2d>)(p, &part, step, &ends)) return false;
    if (i > 0 && (!Same(before.output, ends.input) || before.bits[1] != ends.bits[0])) {
      return p.Fail("the layers of a kernel do not fit one another");
    }
    if (!last && ends.bytes > rooms[i % 2]) rooms[i % 2] = (ends.bytes + 7) & ~uint64_t{7};
    needed[i] = part.scratch;
    before = ends;
    *constant += constants[at];
  }
  if (rooms[0] + rooms[1] > INT32_MAX) return p.Fail("its sizes are out of range");
  for (int32_t i = 0; i < count; i++) {
    Step &step = steps[first[kernel] + i];
    step.source = i % 2 == 0 ? static_cast<uint32_t>(rooms[0]) : 0;
    step.target = i % 2 == 0 ? 0 : static_cast<uint32_t>(rooms[0]);
    step.free = static_cast<uint32_t>(rooms[0] + rooms[1]);
    if (step.free + needed[i] > *scratch) *scratch = step.free + needed[i];
  }
  return true;
}

int32_t MorphConv2d::Run(const Call &call) const {
  const int32_t kernel = rqdkm_morph_kernel(kernels, safe);
  const int32_t end = first[kernel + 1];
  uint8_t *const scratch = static_cast<uint8_t *>(call.scratch);
  for (int32_t i = first[kernel]; i < end; i++) {
    const Step &step = steps[i];
    step.node->inputs[0] = i == first[kernel] ? call.inputs[0] : scratch + step.source;
    const Call own = {step.node->inputs, i + 1 == end ? call.result : scratch + step.target, scratch + step.free};
    const int32_t status = step.run(*step.node, own);
    if (status != RQDKM_OK) return status;
  }
  return RQDKM_OK;
}

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_MORPH_CONV_2D() { return rqdkm::Registration<rqdkm::MorphConv2d>(); }
