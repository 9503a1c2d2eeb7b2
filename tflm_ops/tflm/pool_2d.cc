/* SPDX-License-Identifier: Apache-2.0 */
#include "bands.h"
#include "rqdkm/pooling.h"

namespace rqdkm {
namespace {

using Kernel = int32_t(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                       const rqdkm_dims *output_dims, int8_t *output);

template <Kernel *run>
struct Pool2d : Node {
  bool Read(Preparation &p) {
    if (!g.Read(p, 2)) return false;
    if (g.input.c != g.output.c) return p.Fail("it has other output than input channels");
    const int32_t size[2] = {g.input.h, g.input.w}, out[2] = {g.output.h, g.output.w};
    const int32_t window[2] = {g.filter.h, g.filter.w}, stride[2] = {g.params.stride.h, g.params.stride.w};
    const int32_t before[2] = {g.params.padding.top, g.params.padding.left};
    for (int i = 0; i < 2; i++) {
      if (before[i] >= window[i] || (out[i] - 1) * stride[i] - before[i] >= size[i]) {
        return p.Fail("a window lies entirely in the padding");
      }
    }
    const int32_t in[3] = {size[0], size[1], g.input.c}, result[3] = {out[0], out[1], g.output.c};
    const int64_t elements[2] = {Elements(in, 3), Elements(result, 3)};
    return maps.Read(p, this, 1, elements, 0) && bands.Read(p, g, &maps) && maps.Reserve(p, this, 0);
  }
  int32_t Run(const Call &call) const {
    const rqdkm_hw window = {g.filter.h, g.filter.w};
    return bands.Run(call, g, maps,
                     [&](const rqdkm_conv_params &params, const rqdkm_dims &input_dims, const int8_t *input,
                         const rqdkm_dims &output_dims, int8_t *output) {
                       const rqdkm_pool_params pool = {window, params.stride, params.padding, params.clamp};
                       return run(&pool, &input_dims, input, &output_dims, output);
                     });
  }

 private:
  Geometry g;
  Maps maps;
  Bands bands;
};

}  // namespace
}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_AVERAGE_POOL_2D() {
  return rqdkm::Registration<rqdkm::Pool2d<rqdkm_avg_pool2d_s8>>();
}

TFLMRegistration *tflite::Register_RQDKM_MAX_POOL_2D() {
  return rqdkm::Registration<rqdkm::Pool2d<rqdkm_max_pool2d_s8>>();
}
