/* SPDX-License-Identifier: Apache-2.0 */
/* What functions of one tensor share: packed maps are unpacked a part at a time. */
#ifndef RQDKM_TFLM_UNARY_H
#define RQDKM_TFLM_UNARY_H

#include "maps.h"

namespace rqdkm {

struct Unary : Node {
 protected:
  bool ReadUnary(const Preparation &p, int constants) {
    int32_t count = 0;
    if (!p.Integer(Key::count, 1, INT32_MAX, &count)) return false;
    const int64_t elements[2] = {count, count};
    if (!maps.Read(p, this, 1, elements, constants)) return false;
    part = maps.packed() && kPart < count ? kPart : count;
    for (int i = 0; i < 2; i++) maps.Part(i, part);
    return maps.Reserve(p, this, 0);
  }

  /* kernel(count, input, result): a status. */
  template <class Function>
  int32_t RunUnary(const Call &call, Function kernel) const {
    const int32_t count = maps.result_count();
    for (int32_t at = 0; at < count; at += part) {
      const int32_t here = part < count - at ? part : count - at;
      const int32_t done = kernel(here, maps.Input(call, 0, at, here), maps.Result(call, at));
      const int32_t status = maps.Store(call, done, at, here);
      if (status != RQDKM_OK) return status;
    }
    return RQDKM_OK;
  }

 private:
  static constexpr int32_t kPart = 256; /* elements unpacked at a time */

  Maps maps;
  int32_t part = 1;
};

}  // namespace rqdkm

#endif
