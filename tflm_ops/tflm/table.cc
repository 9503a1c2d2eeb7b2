/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"
#include "rqdkm/elementwise.h"

namespace rqdkm {
namespace {

constexpr int32_t kEntries = 256;

/* Any function of one int8 tensor; constant: its 256 values, of arguments 0 to 127, then -128 to -1. */
struct Table : Node {
  bool Read(Preparation &p) {
    int32_t count = 0;
    if (!p.Integer(Key::count, 1, INT32_MAX, &count)) return false;
    const int64_t elements[2] = {count, count};
    return maps.Read(p, this, 1, elements, 1) && p.Check(*this, 1, kTfLiteInt8, kEntries) && maps.Reserve(p, this, 0);
  }
  int32_t Run(const Call &call) const {
    return maps.Store(call, rqdkm_unary_s8_lut(maps.result_count(), call.input<int8_t>(1), maps.Input(call, 0),
                                               maps.Result(call)));
  }

 private:
  Maps maps;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_TABLE() { return rqdkm::Registration<rqdkm::Table>(); }
