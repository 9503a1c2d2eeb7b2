/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/panel_template.h"

void rqdkm_panel_s8_up(const uint32_t *panel, const uint32_t *weights, int32_t steps, int32_t pixels,
                       const rqdkm_pair_quant *quant, int8_t *out, int32_t stride) {
  rqdkm_panel_template(panel, weights, steps, pixels, quant, out, stride, RQDKM_REQUANTIZE_UP);
}
