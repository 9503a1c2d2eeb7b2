/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/quad.h"

void rqdkm_quad_row_floor(const rqdkm_quad_row *row) { rqdkm_quad_row_template(row, RQDKM_REQUANTIZE_FLOOR); }
