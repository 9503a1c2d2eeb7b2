/* SPDX-License-Identifier: Apache-2.0 */
#include "operator.h"

namespace rqdkm {
namespace {

/* A layer that exists as generated code only. */
struct Generated : Node {
  bool Read(Preparation &preparation) {
    return preparation.Fail("its options name no generated code: register the operator by its own name");
  }
  int32_t Run(const Call &) const { return RQDKM_ERROR_UNSUPPORTED; }
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_LAYER() { return rqdkm::Registration<rqdkm::Generated>(); }
