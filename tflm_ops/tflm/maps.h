/* SPDX-License-Identifier: Apache-2.0 */
/* The feature maps of a portable operator, unpacked to int8 in scratch where they are stored in 4 or 2 bits. */
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
     (`constants` behind the maps), and reserves scratch: for what is unpacked, and `own` bytes of the kernel. */
  bool Read(const Preparation &preparation, Node *node, int inputs, const int64_t *elements, int constants);
  bool Reserve(const Preparation &preparation, Node *node, int64_t own) const;

  int32_t bits(int map) const { return maps_[map].bits; }
  int32_t count(int map) const { return maps_[map].count; }
  int32_t result_count() const { return maps_[inputs_].count; }
  int32_t result_bits() const { return maps_[inputs_].bits; }

  /* int8 values of an input; where to put those of the result; the kernel's scratch, 8-byte aligned. */
  const int8_t *Input(const Call &call, int map) const;
  int8_t *Result(const Call &call) const;
  void *Scratch(const Call &call) const { return static_cast<uint8_t *>(call.scratch) + bytes_; }
  /* Packs the result if the kernel succeeded; the kernel's status. */
  int32_t Store(const Call &call, int32_t status) const;

 private:
  struct Map {
    int32_t count, bits;
    uint32_t at; /* where it is unpacked, in scratch */
  };
  Map maps_[3];
  int inputs_ = 0;
  uint32_t bytes_ = 0;
};

}  // namespace rqdkm

#endif
