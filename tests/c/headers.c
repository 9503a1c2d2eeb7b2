/* SPDX-License-Identifier: Apache-2.0 */
/* The public headers alone, from C: one hand-computed layer through the library. */
#include <stdio.h>

#include "rqdkm/kernels.h"
#include "rqdkm/port.h"
#include "rqdkm/winograd.h"

int main(void) {
  /* y = W x + b with W = [[1, 2], [-3, 4]], x = (10, -5), b = (7, 0): (7, -50); real multiplier 1/2, ties away */
  static const int8_t input[2] = {10, -5}, weights[4] = {1, 2, -3, 4};
  static const int32_t bias[2] = {7, 0}, multiplier[2] = {1 << 30, 1 << 30}, shift[2] = {0, 0};
  const rqdkm_fully_connected_params params = {
      .inputs = 2, .outputs = 2, .input_offset = 0, .weight_offset = 0, .output_offset = 1, .clamp = {-128, 127}};
  const rqdkm_channel_quant quant = {multiplier, shift};
  int8_t output[2] = {0, 0};
  if (rqdkm_fully_connected_s8_ref(&params, &quant, 1, input, weights, bias, output) != RQDKM_OK) return 1;
  printf("%d %d\n", output[0], output[1]);
  return output[0] == 5 && output[1] == -24 ? 0 : 1; /* 3.5 -> 4, -25; zero point 1 */
}
