/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_2d.h"

#include "rqdkm/kernels/panel.h"

namespace rqdkm {
namespace {

rqdkm_panel_function PanelOf(rqdkm_requantize_form form) {
  switch (form) {
    case RQDKM_REQUANTIZE_FLOOR:
      return rqdkm_panel_s8_floor;
    case RQDKM_REQUANTIZE_SHIFT:
      return rqdkm_panel_s8_shift;
    case RQDKM_REQUANTIZE_AWAY:
      return rqdkm_panel_s8_away;
    case RQDKM_REQUANTIZE_AWAY_SHIFT:
      return rqdkm_panel_s8_away_shift;
    default:
      return rqdkm_panel_s8_wide;
  }
}

}  // namespace

bool Conv2d::Read(Preparation &p) {
  if (!g.Read(p, 3) || !p.Integer(Key::kernel, kReference, kIm2row, &kernel)) return false;
  if (g.input.c % g.filter.c != 0 || g.output.c % (g.input.c / g.filter.c) != 0) {
    return p.Fail("its channels do not fall into groups");
  }
  const int32_t sizes[3] = {g.filter.h, g.filter.w, g.filter.c};
  const int32_t in[3] = {g.input.h, g.input.w, g.input.c}, out[3] = {g.output.h, g.output.w, g.output.c};
  const int64_t elements[2] = {Elements(in, 3), Elements(out, 3)}, taps = Elements(sizes, 3);
  if (taps < 1 || taps * g.output.c > kMostElements) return p.Fail("its sizes are out of range");
  if (kernel == kReference) {
    return maps.Read(p, this, 1, elements, kReferenceConstants) && CheckReferenceConstants(p, *this, g.output.c, taps);
  }
  int32_t pieces[3];
  if (!p.Integers(Key::tile, 0, kMostExtent, pieces, 3) || !ReadForm(p, &form)) return false;
  if (pieces[0] < 1 || pieces[1] < 1 || pieces[2] > 1) return p.Fail("its tile cannot be");
  tile = {pieces[0], pieces[1], pieces[2]};
  if (kernel == kGemm && g.filter.c % 4 != 0) return p.Fail("this kernel takes 4 n channels per group");
  packed = p.InputCount() == 4;
  return maps.Read(p, this, 1, elements, packed ? 3 : 2) && ReadFast(p, packed ? 3 : 2);
}

bool Conv2d::ReadFast(Preparation &p, int constants) {
  const int32_t groups = g.input.c / g.filter.c, outputs = g.output.c / groups, pairs = (outputs + 1) / 2;
  int64_t taps = int64_t{g.filter.h} * g.filter.w * g.filter.c;
  if (kernel == kIm2row) { /* runs of taps in whole words, patches in whole pairs of words */
    const bool whole_rows = groups == 1 && g.params.dilation.w == 1;
    const int64_t run = whole_rows ? int64_t{g.filter.w} * g.filter.c : g.filter.c;
    const int64_t runs = whole_rows ? g.filter.h : int64_t{g.filter.h} * g.filter.w;
    taps = (runs * ((run + 1) / 2) + 1) / 2 * 4;
  }
  if (!CheckPackedConstants(p, *this, constants, int64_t{groups} * pairs, 2 * taps, 1)) return false;
  /* in 64 bits, before the kernels' own sums in 32 */
  const int64_t reach = int64_t{g.filter.h - 1} * g.params.dilation.h + 1;
  const int64_t columns = int64_t{g.input.w} + g.params.padding.left + int64_t{g.output.w} * g.params.stride.w +
                          int64_t{g.filter.w} * g.params.dilation.w;
  const int64_t strip = (int64_t{tile.rows} * g.params.stride.h + reach) * columns * g.input.c;
  if (4 * taps * (pairs + tile.pixels) > kMostElements || (kernel == kIm2row && strip > kMostElements)) {
    return p.Fail("its sizes are out of range");
  }
  if (!bands.Read(p, g, &maps)) return false;
  const auto bytes = kernel == kGemm ? rqdkm_conv2d_s8_gemm_scratch_bytes : rqdkm_conv2d_s8_im2row_scratch_bytes;
  const int64_t most =
      bands.Most(g, [&](const rqdkm_conv_params &params, const rqdkm_dims &input, const rqdkm_dims &output) {
        return int64_t{bytes(&params, &input, &g.filter, &output, &tile)};
      });
  return maps.Reserve(p, this, most);
}

int32_t Conv2d::Reference(const Call &call) const {
  const rqdkm_channel_quant quant = {call.input<int32_t>(3), call.input<int32_t>(4)};
  const rqdkm_bits bits = {maps.bits(0), maps.result_bits(), call.input<uint8_t>(5)};
  return rqdkm_conv2d_mixed_ref(&g.params, &quant, &bits, &g.input, call.inputs[0], &g.filter, call.inputs[1],
                                call.input<int32_t>(2), &g.output, call.result);
}

int32_t Conv2d::Run(const Call &call) const {
  if (kernel == kReference) return Reference(call);
  const rqdkm_packed_quant quant = {form, call.input<rqdkm_pair_quant>(2), packed ? call.input<uint8_t>(3) : nullptr,
                                    PanelOf(form)};
  const auto run = kernel == kGemm ? rqdkm_conv2d_s8_gemm : rqdkm_conv2d_s8_im2row;
  return bands.Run(call, g, maps,
                   [&](const rqdkm_conv_params &params, const rqdkm_dims &input_dims, const int8_t *input,
                       const rqdkm_dims &output_dims, int8_t *output) {
                     return run(&params, &quant, &input_dims, input, &g.filter, call.input<int8_t>(1), &output_dims,
                                output, &tile, maps.Scratch(call));
                   });
}

}  // namespace rqdkm

TFLMRegistration *tflite::Register_RQDKM_CONV_2D() { return rqdkm::Registration<rqdkm::Conv2d>(); }
