/* SPDX-License-Identifier: Apache-2.0 */
/* Single elements of packed tensors, for the plain C references: see rqdkm_bits. */
#ifndef RQDKM_PACKED_ELEMENT_H
#define RQDKM_PACKED_ELEMENT_H

#include "rqdkm/arch.h"
#include "rqdkm/requantize.h"

RQDKM_INLINE int32_t rqdkm_bits_valid(int32_t bits) { return bits == 8 || bits == 4 || bits == 2; }

/* Bytes of `count` elements that start at a byte. */
RQDKM_INLINE int32_t rqdkm_packed_bytes(int32_t count, int32_t bits) { return (count * bits + 7) / 8; }

RQDKM_INLINE int32_t rqdkm_packed_get(const void *data, int32_t index, int32_t bits) {
  const int32_t at = index * bits;
  const uint32_t shifted = (uint32_t)((const uint8_t *)data)[at / 8] >> at % 8;
  const int32_t left = 32 - bits;
  return (int32_t)(shifted << left) >> left;
}

/* Elements must be written in order: the first of a byte clears it. */
RQDKM_INLINE void rqdkm_packed_put(void *data, int32_t index, int32_t bits, int32_t value) {
  const int32_t at = index * bits;
  uint8_t *const byte = (uint8_t *)data + at / 8;
  const uint32_t mask = (1u << bits) - 1u, before = at % 8 == 0 ? 0u : *byte;
  *byte = (uint8_t)(before | ((uint32_t)value & mask) << at % 8);
}

/* Requantize output channel o and clamp to the layer's range and to what `bits` can hold. */
RQDKM_INLINE int32_t rqdkm_requantize_to(int32_t acc, const rqdkm_channel_quant *quant, int32_t o, int32_t zero_point,
                                         const rqdkm_clamp *clamp, int32_t bits) {
  const int32_t least = -(1 << (bits - 1)), most = (1 << (bits - 1)) - 1;
  return rqdkm_requantize_wide(acc, quant->multiplier[o], quant->shift[o], zero_point,
                               rqdkm_clamp_value(clamp->min, least, most), rqdkm_clamp_value(clamp->max, least, most));
}

#endif
