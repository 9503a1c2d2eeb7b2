/* SPDX-License-Identifier: Apache-2.0 */
/* The residual addition after the output stage. */
#ifndef RQDKM_CONV_WINOGRAD_ADD_H
#define RQDKM_CONV_WINOGRAD_ADD_H

#include "rqdkm/winograd.h"

enum { RQDKM_WINOGRAD_ADD_ALIGN = 32 };

/* from: int8 [tiles][tile][tile][2], results of two neighbouring channels, aligned as above; residual, out: of the
   first channel, step apart along x, pitch along y; they may be the same: what is valid is read, then written, once.
   channels: 1 if the second one only pads. */
void rqdkm_winograd_add_tiles(const rqdkm_add_linear_params *add, const int8_t *from, int32_t tile,
                              const rqdkm_winograd_place *place, int32_t tiles, int32_t channels,
                              const int8_t *residual, int8_t *out, int32_t step, int32_t pitch);

#endif
