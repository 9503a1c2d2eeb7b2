/* SPDX-License-Identifier: Apache-2.0 */
#include "binary.h"
#include "rqdkm/elementwise.h"

namespace rqdkm {
namespace {

struct Add : Binary {
  bool Read(Preparation &p) {
    int32_t multipliers[3], shifts[3];
    if (!ReadBinary(p) || !ReadScaling(p, multipliers, shifts, 3)) return false;
    params = {-zero_points[0], multipliers[0], shifts[0],      -zero_points[1], multipliers[1],
              shifts[1],       zero_points[2], multipliers[2], shifts[2],       clamp};
    only_right = shifts[0] <= 0 && shifts[1] <= 0 && shifts[2] <= 0;
    return true;
  }
  int32_t Run(const Call &call) const {
    const auto run = only_right ? rqdkm_add_s8 : rqdkm_add_s8_ref;
    return RunBinary(call, [&](int32_t count, int32_t period, const int8_t *first, const int8_t *second, int8_t *out) {
      return run(&params, count, period, first, second, out);
    });
  }

 private:
  rqdkm_add_params params;
  bool only_right = false;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_ADD() { return rqdkm::Registration<rqdkm::Add>(); }
