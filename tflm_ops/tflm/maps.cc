/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"

#include "rqdkm/bits.h"

namespace rqdkm {

int64_t Elements(const int32_t *extents, int count) {
  int64_t product = 1;
  for (int i = 0; i < count; i++) {
    product *= extents[i];
    if (product > kMostElements) return 0;
  }
  return product;
}

bool ReadScaling(const Preparation &preparation, int32_t *multipliers, int32_t *shifts, size_t count) {
  return preparation.Integers(Key::multipliers, 0, INT32_MAX, multipliers, count) &&
         preparation.Integers(Key::shifts, -31, 30, shifts, count);
}

bool ReadClamp(const Preparation &preparation, rqdkm_clamp *clamp) {
  int32_t values[2];
  if (!preparation.Integers(Key::clamp, INT8_MIN, INT8_MAX, values, 2)) return false;
  *clamp = {values[0], values[1]};
  return values[0] <= values[1] || preparation.Fail("its clamp is empty");
}

bool Maps::Read(const Preparation &preparation, Node *node, int inputs, const int64_t *elements, int constants) {
  int32_t bits[3];
  if (!preparation.Integers(Key::bits, 2, 8, bits, static_cast<size_t>(inputs) + 1)) return false;
  if (!preparation.Operands(node, inputs, constants)) return false;
  inputs_ = inputs;
  for (int i = 0; i <= inputs; i++) {
    const int64_t count = elements[i];
    if (count < 1 || count > kMostElements) return preparation.Fail("its sizes are out of range");
    if ((bits[i] != 8 && bits[i] != 4 && bits[i] != 2) || count * bits[i] % 8 != 0) {
      return preparation.Fail("a map's bits cannot be");
    }
    const uint64_t bytes = static_cast<uint64_t>(count) * static_cast<uint64_t>(bits[i]) / 8;
    if (!preparation.Check(*node, i == inputs ? -1 : i, kTfLiteInt8, bytes)) return false;
    maps_[i] = {static_cast<int32_t>(count), bits[i], static_cast<uint32_t>(count), 0};
  }
  return true;
}

bool Maps::packed() const {
  for (int i = 0; i <= inputs_; i++) {
    if (maps_[i].bits != 8) return true;
  }
  return false;
}

void Maps::Part(int map, int64_t elements) {
  if (elements < maps_[map].count) maps_[map].part = static_cast<uint32_t>(elements);
}

bool Maps::Reserve(const Preparation &preparation, Node *node, int64_t own) {
  if (own < 0) return preparation.Fail("its sizes are out of range");
  for (int i = 0; i <= inputs_; i++) {
    maps_[i].at = bytes_;
    if (maps_[i].bits != 8) bytes_ += (maps_[i].part + 7) & ~uint32_t{7};
  }
  return preparation.Scratch(node, bytes_ + static_cast<uint64_t>(own));
}

const int8_t *Maps::Input(const Call &call, int map, int32_t first, int32_t count) const {
  const Map &m = maps_[map];
  if (m.bits == 8) return call.input<int8_t>(map) + first;
  int8_t *const values = static_cast<int8_t *>(call.scratch) + m.at;
  (m.bits == 4 ? rqdkm_unpack_s4 : rqdkm_unpack_s2)(call.input<uint8_t>(map) + first * m.bits / 8, count, values);
  return values;
}

int8_t *Maps::Result(const Call &call, int32_t first) const {
  const Map &m = maps_[inputs_];
  return m.bits == 8 ? static_cast<int8_t *>(call.result) + first : static_cast<int8_t *>(call.scratch) + m.at;
}

int32_t Maps::Store(const Call &call, int32_t status, int32_t first, int32_t count) const {
  const Map &m = maps_[inputs_];
  if (status != RQDKM_OK || m.bits == 8) return status;
  uint8_t *const packed = static_cast<uint8_t *>(call.result) + first * m.bits / 8;
  (m.bits == 4 ? rqdkm_pack_s4 : rqdkm_pack_s2)(Result(call, first), count, packed);
  return RQDKM_OK;
}

}  // namespace rqdkm
