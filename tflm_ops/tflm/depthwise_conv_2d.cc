/* SPDX-License-Identifier: Apache-2.0 */
#include "depthwise_conv_2d.h"

#include "rqdkm/depthwise.h"

namespace rqdkm {

bool DepthwiseConv2d::Read(Preparation &p) {
  if (!g.Read(p, 2)) return false;
  if (g.output.c % g.input.c != 0) return p.Fail("its output channels are no multiple of its input channels");
  const int32_t in[3] = {g.input.h, g.input.w, g.input.c}, out[3] = {g.output.h, g.output.w, g.output.c};
  const int32_t sizes[3] = {g.filter.h, g.filter.w, g.output.c};
  const int64_t elements[2] = {Elements(in, 3), Elements(out, 3)};
  if (Elements(sizes, 3) < 1) return p.Fail("its sizes are out of range");
  return maps.Read(p, this, 1, elements, kReferenceConstants) &&
         CheckReferenceConstants(p, *this, g.output.c, int64_t{g.filter.h} * g.filter.w);
}

int32_t DepthwiseConv2d::Run(const Call &call) const {
  const rqdkm_channel_quant quant = {call.input<int32_t>(3), call.input<int32_t>(4)};
  const rqdkm_bits bits = {maps.bits(0), maps.result_bits(), call.input<uint8_t>(5)};
  const rqdkm_hw window = {g.filter.h, g.filter.w};
  return rqdkm_depthwise_conv2d_mixed_ref(&g.params, &quant, &bits, &g.input, call.inputs[0], &window, call.inputs[1],
                                          call.input<int32_t>(2), &g.output, call.result);
}

}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_DEPTHWISE_CONV_2D() { return rqdkm::Registration<rqdkm::DepthwiseConv2d>(); }
