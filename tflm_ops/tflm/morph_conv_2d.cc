/* SPDX-License-Identifier: Apache-2.0 */
#include "operator.h"

namespace rqdkm {
namespace {

/* The kernels of a morphing layer and the switch between them exist as generated code only. */
struct MorphConv2d : Node {
  bool Read(Preparation &preparation) {
    return preparation.Fail("a morphing layer exists as generated code only: export the model with it");
  }
  int32_t Run(const Call &) const { return RQDKM_ERROR_UNSUPPORTED; }
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_MORPH_CONV_2D() { return rqdkm::Registration<rqdkm::MorphConv2d>(); }
