/* SPDX-License-Identifier: Apache-2.0 */
/* The portable convolution: a node of its own, and a layer of a morphing one. */
#ifndef RQDKM_TFLM_CONV_2D_H
#define RQDKM_TFLM_CONV_2D_H

#include "bands.h"
#include "rqdkm/convolution.h"

namespace rqdkm {

struct Conv2d : Node {
  bool Read(Preparation &p);
  int32_t Run(const Call &call) const;

  Geometry g;
  Maps maps;

 private:
  bool ReadFast(Preparation &p, int constants);
  int32_t Reference(const Call &call) const;

  Bands bands;
  int32_t kernel = kReference;
  rqdkm_conv_tile tile = {1, 1, 0};
  rqdkm_requantize_form form = RQDKM_REQUANTIZE_WIDE;
  bool packed = false; /* weights below 8 bits: a third constant */
};

}  // namespace rqdkm

#endif
