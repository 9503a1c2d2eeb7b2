/* SPDX-License-Identifier: Apache-2.0 */
#include "binary.h"
#include "rqdkm/elementwise.h"

namespace rqdkm {
namespace {

struct Mul : Binary {
  bool Read(Preparation &p) {
    int32_t multiplier = 0, shift = 0;
    if (!ReadBinary(p) || !ReadScaling(p, &multiplier, &shift, 1)) return false;
    params = {-zero_points[0], -zero_points[1], zero_points[2], multiplier, shift, clamp};
    return true;
  }
  int32_t Run(const Call &call) const {
    const auto run = params.shift <= 0 ? rqdkm_mul_s8 : rqdkm_mul_s8_ref;
    return RunBinary(call, [&](int32_t count, int32_t period, const int8_t *first, const int8_t *second, int8_t *out) {
      return run(&params, count, period, first, second, out);
    });
  }

 private:
  rqdkm_mul_params params;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_MUL() { return rqdkm::Registration<rqdkm::Mul>(); }
