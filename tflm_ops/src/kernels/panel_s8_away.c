/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/panel_template.h"

void rqdkm_panel_s8_away(const rqdkm_panel_product *product) { rqdkm_panel_template(product, RQDKM_REQUANTIZE_AWAY); }
