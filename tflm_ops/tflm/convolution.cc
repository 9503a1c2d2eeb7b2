/* SPDX-License-Identifier: Apache-2.0 */
#include "convolution.h"

namespace rqdkm {
namespace {

bool BitsExist(int32_t bits) { return bits == 8 || bits == 4 || bits == 2; }

}  // namespace

bool Geometry::Read(const Preparation &p, size_t taps) {
  int32_t in[3], out[3], window[3] = {1, 1, 1}, stride[2], dilation[2], padding[4], zero[2];
  if (!p.Integers(Key::input, 1, kMostExtent, in, 3) || !p.Integers(Key::output, 1, kMostExtent, out, 3) ||
      !p.Integers(Key::filter, 1, kMostExtent, window, taps) || !p.Integers(Key::stride, 1, kMostExtent, stride, 2) ||
      !p.Integers(Key::dilation, 1, kMostExtent, dilation, 2) ||
      !p.Integers(Key::padding, 0, kMostExtent, padding, 4) ||
      !p.Integers(Key::zero_points, INT8_MIN, INT8_MAX, zero, 2) || !ReadClamp(p, &params.clamp)) {
    return false;
  }
  /* what a window reaches must fit 32 bits */
  for (int i = 0; i < 2; i++) {
    const int64_t reach = int64_t{out[i]} * stride[i] + int64_t{window[i]} * dilation[i];
    if (reach > kMostElements) return p.Fail("its sizes are out of range");
  }
  params.input_offset = -zero[0];
  params.output_offset = zero[1];
  params.stride = {stride[0], stride[1]};
  params.dilation = {dilation[0], dilation[1]};
  params.padding = {padding[0], padding[1], padding[2], padding[3]};
  input = {in[0], in[1], in[2]};
  filter = {window[0], window[1], window[2]};
  output = {out[0], out[1], out[2]};
  return true;
}

bool CheckReferenceConstants(const Preparation &p, const Node &node, int32_t channels, int64_t taps) {
  const int first = node.tensors;
  const uint64_t words = 4 * static_cast<uint64_t>(channels);
  for (int i = 1; i <= 3; i++) {
    if (!p.Check(node, first + i, kTfLiteInt32, words)) return false;
  }
  if (!p.Check(node, first + 4, kTfLiteUInt8, static_cast<uint64_t>(channels))) return false;
  const int32_t *const multipliers = static_cast<const int32_t *>(node.inputs[first + 2]);
  const int32_t *const shifts = static_cast<const int32_t *>(node.inputs[first + 3]);
  const uint8_t *const bits = static_cast<const uint8_t *>(node.inputs[first + 4]);
  uint64_t bytes = 0;
  for (int32_t i = 0; i < channels; i++) {
    if (!BitsExist(bits[i])) return p.Fail("weights have 8, 4 or 2 bits", first + 4);
    if (multipliers[i] < 0) return p.Fail("a multiplier is negative", first + 2);
    if (shifts[i] < -31 || shifts[i] > 30) return p.Fail("a shift is out of range", first + 3);
    bytes += static_cast<uint64_t>((taps * bits[i] + 7) / 8);
  }
  return p.Check(node, first, kTfLiteInt8, bytes);
}

bool CheckPackedConstants(const Preparation &p, const Node &node, int constants, int64_t groups, int64_t weights,
                          int32_t tables) {
  const int first = node.tensors;
  const uint64_t pairs = static_cast<uint64_t>(groups) * static_cast<uint64_t>(tables);
  if (!p.Check(node, first + 1, kTfLiteInt32, pairs * sizeof(rqdkm_pair_quant))) return false;
  if (constants < 3) return p.Check(node, first, kTfLiteInt8, static_cast<uint64_t>(groups * weights));
  if (!p.Check(node, first + 2, kTfLiteUInt8, pairs)) return false;
  const uint8_t *const bits = static_cast<const uint8_t *>(node.inputs[first + 2]);
  int64_t bytes = 0;
  for (int64_t group = 0; group < groups; group++) {
    const int32_t width = bits[group * tables];
    for (int32_t i = 0; i < tables; i++) {
      if (!BitsExist(width) || bits[group * tables + i] != width) {
        return p.Fail("weights have 8, 4 or 2 bits", first + 2);
      }
    }
    const int64_t words = weights / 4, together = 8 / width;
    bytes += 4 * ((words + together - 1) / together);
  }
  return p.Check(node, first, kTfLiteInt8, static_cast<uint64_t>(bytes));
}

bool ReadForm(const Preparation &p, rqdkm_requantize_form *form) {
  int32_t value = 0;
  if (!p.Integer(Key::form, RQDKM_REQUANTIZE_FLOOR, RQDKM_REQUANTIZE_WIDE, &value)) return false;
  *form = static_cast<rqdkm_requantize_form>(value);
  return true;
}

}  // namespace rqdkm
