/* SPDX-License-Identifier: Apache-2.0 */
/* The portable depthwise convolution: a node of its own, and a layer of a morphing one. */
#ifndef RQDKM_TFLM_DEPTHWISE_CONV_2D_H
#define RQDKM_TFLM_DEPTHWISE_CONV_2D_H

#include "convolution.h"

namespace rqdkm {

struct DepthwiseConv2d : Node {
  bool Read(Preparation &p);
  int32_t Run(const Call &call) const;

  Geometry g;
  Maps maps;
};

}  // namespace rqdkm

#endif
