/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/quad.h"

void rqdkm_quad_row_away_shift(const rqdkm_quad_row *row) { rqdkm_quad_row_template(row, RQDKM_REQUANTIZE_AWAY_SHIFT); }
