/* SPDX-License-Identifier: Apache-2.0 */
/* The feature maps of a portable operator, unpacked to int8 in scratch where they are stored in 4 or 2 bits: whole, or
   a part at a time. */
#ifndef RQDKM_TFLM_MAPS_H
#define RQDKM_TFLM_MAPS_H

#include "operator.h"

namespace rqdkm {

constexpr int32_t kMostExtent = 65535;
constexpr int64_t kMostElements = int64_t{1} << 28; /* so that indices and bytes fit 32 bits */

/* Product of extents, each at least 1; 0: more than kMostElements. */
int64_t Elements(const int32_t *extents, int count);
/* A multiplier and its shift as rqdkm_multiply_by_quantized_multiplier takes them. */
bool ReadScaling(const Preparation &preparation, int32_t *multipliers, int32_t *shifts, size_t count);
bool ReadClamp(const Preparation &preparation, rqdkm_clamp *clamp);

class Maps {
 public:
  /* `elements` of the inputs, one or two, then of the result. Reads "bits", checks the tensors and the node's operands
     (`constants` behind the maps). Packed maps are unpacked whole, unless Part says otherwise. */
  bool Read(const Preparation &preparation, Node *node, int inputs, const int64_t *elements, int constants);
  /* At most this many elements of a map are unpacked at a time; `map` counts inputs, then the result. */
  void Part(int map, int64_t elements);
  /* Scratch for what is unpacked, and `own` bytes of the kernel. */
  bool Reserve(const Preparation &preparation, Node *node, int64_t own);

  int32_t count(int map) const { return maps_[map].count; }
  int32_t bits(int map) const { return maps_[map].bits; }
  int32_t result_count() const { return maps_[inputs_].count; }
  int32_t result_bits() const { return maps_[inputs_].bits; }
  bool packed() const;

  /* int8 values of an input from element `first` on, which begins a byte. */
  const int8_t *Input(const Call &call, int map, int32_t first, int32_t count) const;
  const int8_t *Input(const Call &call, int map) const { return Input(call, map, 0, count(map)); }
  /* Where to put values of the result from element `first` on; the kernel's scratch, 8-byte aligned. */
  int8_t *Result(const Call &call, int32_t first = 0) const;
  void *Scratch(const Call &call) const { return static_cast<uint8_t *>(call.scratch) + bytes_; }
  /* Packs what was put there if the kernel succeeded; the kernel's status. */
  int32_t Store(const Call &call, int32_t status, int32_t first, int32_t count) const;
  int32_t Store(const Call &call, int32_t status) const { return Store(call, status, 0, result_count()); }

 private:
  struct Map {
    int32_t count, bits;
    uint32_t part, at; /* elements that are unpacked at a time, and where in scratch */
  };
  Map maps_[3];
  int inputs_ = 0;
  uint32_t bytes_ = 0;
};

}  // namespace rqdkm

#endif
