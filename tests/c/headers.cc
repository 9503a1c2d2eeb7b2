/* SPDX-License-Identifier: Apache-2.0 */
/* The public headers from C++, as TensorFlow Lite Micro projects include them. */
#include "rqdkm/kernels.h"
#include "rqdkm/port.h"
#include "rqdkm/requantize.h"
#include "rqdkm/winograd.h"

int main() {
  /* 5 * 2^30 / 2^31 = 2.5, ties away from zero */
  return rqdkm_multiply_by_quantized_multiplier(5, 1 << 30, 0) == 3 ? 0 : 1;
}
