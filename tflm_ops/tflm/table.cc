/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/elementwise.h"
#include "unary.h"

namespace rqdkm {
namespace {

constexpr int32_t kEntries = 256;

/* Any function of one int8 tensor; constant: its 256 values, of arguments 0 to 127, then -128 to -1. */
struct Table : Unary {
  bool Read(Preparation &p) { return ReadUnary(p, 1) && p.Check(*this, 1, kTfLiteInt8, kEntries); }
  int32_t Run(const Call &call) const {
    const int8_t *const table = call.input<int8_t>(1);
    return RunUnary(call, [&](int32_t count, const int8_t *input, int8_t *result) {
      return rqdkm_unary_s8_lut(count, table, input, result);
    });
  }
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_TABLE() { return rqdkm::Registration<rqdkm::Table>(); }
