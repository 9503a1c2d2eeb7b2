/* SPDX-License-Identifier: Apache-2.0 */
/* What addition and multiplication share: the first operand has the result's size, the second repeats. */
#ifndef RQDKM_TFLM_BINARY_H
#define RQDKM_TFLM_BINARY_H

#include "maps.h"

namespace rqdkm {

struct Binary : Node {
 protected:
  bool ReadBinary(const Preparation &p) {
    int32_t sizes[2];
    if (!p.Integers(Key::count, 1, INT32_MAX, sizes, 2) || !ReadClamp(p, &clamp) ||
        !p.Integers(Key::zero_points, INT8_MIN, INT8_MAX, zero_points, 3)) {
      return false;
    }
    if (sizes[0] % sizes[1] != 0) return p.Fail("its second operand does not repeat in the first");
    period = sizes[1];
    const int64_t elements[3] = {sizes[0], sizes[1], sizes[0]};
    return maps.Read(p, this, 2, elements, 0) && maps.Reserve(p, this, 0);
  }

  Maps maps;
  rqdkm_clamp clamp;
  int32_t zero_points[3];
  int32_t period = 1;
};

}  // namespace rqdkm

#endif
