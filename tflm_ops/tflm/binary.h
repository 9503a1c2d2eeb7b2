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
    const int64_t elements[3] = {sizes[0], sizes[1], sizes[0]};
    if (!maps.Read(p, this, 2, elements, 0)) return false;
    repeats = sizes[1] < sizes[0];
    part = sizes[0];
    if (maps.packed() && !repeats) {
      part = kPart < part ? kPart : part;
      for (int i = 0; i < 3; i++) maps.Part(i, part);
    }
    return maps.Reserve(p, this, 0);
  }

  /* kernel(count, period, first, second, result): a status. */
  template <class Function>
  int32_t RunBinary(const Call &call, Function kernel) const {
    const int32_t count = maps.result_count();
    for (int32_t at = 0; at < count; at += part) {
      const int32_t here = part < count - at ? part : count - at, second = repeats ? maps.count(1) : here;
      const int32_t done = kernel(here, second, maps.Input(call, 0, at, here),
                                  maps.Input(call, 1, repeats ? 0 : at, second), maps.Result(call, at));
      const int32_t status = maps.Store(call, done, at, here);
      if (status != RQDKM_OK) return status;
    }
    return RQDKM_OK;
  }

  static constexpr int32_t kPart = 256; /* elements unpacked at a time */

  Maps maps;
  rqdkm_clamp clamp;
  int32_t zero_points[3];
  int32_t part = 1;
  bool repeats = false;
};

}  // namespace rqdkm

#endif
