/* SPDX-License-Identifier: Apache-2.0 */
#include "convolution.h"
#include "rqdkm/convolution.h"

namespace rqdkm {
namespace {

struct FullyConnected : Node {
  bool Read(Preparation &p);
  int32_t Run(const Call &call) const;

 private:
  rqdkm_fully_connected_params params;
  int32_t batches = 1, kernel = kReference;
  Maps maps;
  rqdkm_requantize_form form = RQDKM_REQUANTIZE_WIDE;
  bool packed = false;
};

bool FullyConnected::Read(Preparation &p) {
  int32_t sizes[2], zero[3];
  if (!p.Integers(Key::filter, 1, kMostExtent, sizes, 2) || !p.Integer(Key::count, 1, kMostExtent, &batches) ||
      !p.Integers(Key::zero_points, INT8_MIN, INT8_MAX, zero, 3) || !ReadClamp(p, &params.clamp) ||
      (!p.Integer(Key::kernel, kReference, kFast, &kernel))) {
    return false;
  }
  if (kernel != kReference && kernel != kFast) return p.Fail("it has no such kernel");
  const int32_t in[2] = {batches, sizes[1]}, out[2] = {batches, sizes[0]};
  const int64_t elements[2] = {Elements(in, 2), Elements(out, 2)};
  params.outputs = sizes[0];
  params.inputs = sizes[1];
  params.input_offset = -zero[0];
  params.weight_offset = -zero[1];
  params.output_offset = zero[2];
  if (Elements(sizes, 2) < 1) return p.Fail("its sizes are out of range");
  if (kernel == kReference) {
    return maps.Read(p, this, 1, elements, kReferenceConstants) &&
           CheckReferenceConstants(p, *this, params.outputs, params.inputs);
  }
  if (params.weight_offset != 0) return p.Fail("this kernel takes symmetric weights");
  packed = p.InputCount() == 4;
  const int constants = packed ? 3 : 2;
  const int64_t fours = (int64_t{params.outputs} + 3) / 4, weights = 4 * ((int64_t{params.inputs} + 3) / 4 * 4);
  return ReadForm(p, &form) && maps.Read(p, this, 1, elements, constants) &&
         CheckPackedConstants(p, *this, constants, fours, weights, 2) &&
         maps.Reserve(p, this, rqdkm_fully_connected_s8_fast_scratch_bytes(&params));
}

int32_t FullyConnected::Run(const Call &call) const {
  if (kernel == kReference) {
    const rqdkm_channel_quant quant = {call.input<int32_t>(3), call.input<int32_t>(4)};
    const rqdkm_bits bits = {maps.bits(0), maps.result_bits(), call.input<uint8_t>(5)};
    return rqdkm_fully_connected_mixed_ref(&params, &quant, &bits, batches, call.inputs[0], call.inputs[1],
                                           call.input<int32_t>(2), call.result);
  }
  const rqdkm_packed_quant quant = {form, call.input<rqdkm_pair_quant>(2), packed ? call.input<uint8_t>(3) : nullptr,
                                    nullptr};
  return maps.Store(call, rqdkm_fully_connected_s8_fast(&params, &quant, batches, maps.Input(call, 0),
                                                        call.input<int8_t>(1), maps.Result(call), maps.Scratch(call)));
}

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_FULLY_CONNECTED() { return rqdkm::Registration<rqdkm::FullyConnected>(); }
