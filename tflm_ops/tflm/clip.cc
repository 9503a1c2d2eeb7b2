/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/elementwise.h"
#include "unary.h"

namespace rqdkm {
namespace {

struct Clip : Unary {
  bool Read(Preparation &p) { return ReadClamp(p, &clamp) && ReadUnary(p, 0); }
  int32_t Run(const Call &call) const {
    return RunUnary(call, [&](int32_t count, const int8_t *input, int8_t *result) {
      return rqdkm_clip_s8(clamp, count, input, result);
    });
  }

 private:
  rqdkm_clamp clamp;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_CLIP() { return rqdkm::Registration<rqdkm::Clip>(); }
