/* SPDX-License-Identifier: Apache-2.0 */
/* What the portable convolutions share: geometry, and constants of output channels. */
#ifndef RQDKM_TFLM_CONVOLUTION_H
#define RQDKM_TFLM_CONVOLUTION_H

#include "maps.h"

namespace rqdkm {

/* Numbers of the kernels, as the option "kernel" has them. */
enum PortableKernel : int32_t {
  kReference = 0, /* any bits, any shape; constants: weights, bias, multipliers, shifts, bits of each output channel */
  kGemm = 1,      /* the kernel of that name; constants: weights, pair table, bits of each pair if not all have 8 */
  kIm2row = 2,    /* likewise */
  kFast = 3,      /* fully connected: likewise */
};
constexpr int32_t kReferenceConstants = 5;

/* A window operator's parameters; `taps`: how many integers "filter" has (height, width, perhaps channels). */
struct Geometry {
  rqdkm_conv_params params;
  rqdkm_dims input, filter, output;

  bool Read(const Preparation &preparation, size_t taps);
};

/* The constants of the reference kernels, behind the feature map: `channels` output channels of `taps` weights. */
bool CheckReferenceConstants(const Preparation &preparation, const Node &node, int32_t channels, int64_t taps);
/* Those of the fast kernels: `groups` groups of channels of `weights` weights each, and `tables` pair tables each. With
   a third constant (bits of each pair) all pairs of a group have the same. */
bool CheckPackedConstants(const Preparation &preparation, const Node &node, int constants, int64_t groups,
                          int64_t weights, int32_t tables);
/* The form of requantization, which must be one of the enum. */
bool ReadForm(const Preparation &preparation, rqdkm_requantize_form *form);

}  // namespace rqdkm

#endif
