/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"
#include "rqdkm/elementwise.h"

namespace rqdkm {
namespace {

struct Pad : Node {
  bool Read(Preparation &p) {
    int32_t value = 0, whole[4];
    if (!p.Integers(Key::input, 1, kMostExtent, params.shape, 4) ||
        !p.Integers(Key::before, 0, kMostExtent, params.before, 4) ||
        !p.Integers(Key::after, 0, kMostExtent, params.after, 4) ||
        !p.Integer(Key::value, INT8_MIN, INT8_MAX, &value)) {
      return false;
    }
    params.value = static_cast<int8_t>(value);
    for (int i = 0; i < 4; i++) whole[i] = params.before[i] + params.shape[i] + params.after[i];
    const int64_t elements[2] = {Elements(params.shape, 4), Elements(whole, 4)};
    return maps.Read(p, this, 1, elements, 0) && maps.Reserve(p, this, 0);
  }
  int32_t Run(const Call &call) const {
    return maps.Store(call, rqdkm_pad_s8(&params, maps.Input(call, 0), maps.Result(call)));
  }

 private:
  rqdkm_pad_params params;
  Maps maps;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_PAD() { return rqdkm::Registration<rqdkm::Pad>(); }
