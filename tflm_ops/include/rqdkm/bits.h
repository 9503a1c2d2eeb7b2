/* SPDX-License-Identifier: Apache-2.0 */
/* Feature maps of 4 or 2 bits an element, to and from int8.
 *
 * Packed elements follow each other in the flat NHWC order, low bits first, two's complement: [1, 2, 3, -4] is 0x21
 * 0xc3 at 4 bits, [1, 0, -1, -2] is 0xb1 at 2 bits. Buffers do not overlap and need no alignment; the last byte of
 * `count` elements is written whole, bits without an element are 0. */
#ifndef RQDKM_BITS_H
#define RQDKM_BITS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* packed: count elements, from a whole byte on; values[count]. */
void rqdkm_unpack_s4(const void *packed, int32_t count, int8_t *values);
void rqdkm_unpack_s2(const void *packed, int32_t count, int8_t *values);

/* The other way; of each value the low bits are taken. */
void rqdkm_pack_s4(const int8_t *values, int32_t count, void *packed);
void rqdkm_pack_s2(const int8_t *values, int32_t count, void *packed);

#ifdef __cplusplus
}
#endif
#endif
