/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"
#include "rqdkm/pooling.h"

namespace rqdkm {
namespace {

/* Over the middle axis of three; the result keeps all of int8. */
struct Mean : Node {
  bool Read(Preparation &p) {
    int32_t zero[2], multiplier = 0, shift = 0;
    if (!p.Integers(Key::input, 1, kMostElements, extents, 3) || !ReadScaling(p, &multiplier, &shift, 1) ||
        !p.Integers(Key::zero_points, INT8_MIN, INT8_MAX, zero, 2)) {
      return false;
    }
    if (extents[1] > INT32_MAX / 255) return p.Fail("its sum may overflow 32 bits");
    const int32_t kept[2] = {extents[0], extents[2]};
    const int64_t elements[2] = {Elements(extents, 3), Elements(kept, 2)};
    params = {zero[0], zero[1], multiplier, shift};
    return maps.Read(p, this, 1, elements, 0) && maps.Reserve(p, this, 0);
  }
  int32_t Run(const Call &call) const {
    return maps.Store(
        call, rqdkm_mean_s8(&params, extents[0], extents[1], extents[2], maps.Input(call, 0), maps.Result(call)));
  }

 private:
  rqdkm_mean_params params;
  int32_t extents[3];
  Maps maps;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_MEAN() { return rqdkm::Registration<rqdkm::Mean>(); }
