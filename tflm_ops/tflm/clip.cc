/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"
#include "rqdkm/elementwise.h"

namespace rqdkm {
namespace {

struct Clip : Node {
  bool Read(Preparation &p) {
    int32_t count = 0;
    if (!p.Integer(Key::count, 1, INT32_MAX, &count) || !ReadClamp(p, &clamp)) return false;
    const int64_t elements[2] = {count, count};
    return maps.Read(p, this, 1, elements, 0) && maps.Reserve(p, this, 0);
  }
  int32_t Run(const Call &call) const {
    return maps.Store(call, rqdkm_clip_s8(clamp, maps.result_count(), maps.Input(call, 0), maps.Result(call)));
  }

 private:
  rqdkm_clamp clamp;
  Maps maps;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_CLIP() { return rqdkm::Registration<rqdkm::Clip>(); }
