/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights in flash -> what the kernels multiply with.
 *
 * At 8 bits weights are a sequence of words w0 w1 w2 ... of four int8 values, in the order of the kernel: for a pair of
 * output channels A and B, per four taps, a word of A and one of B. Narrower ones are the same sequence with 8 / bits
 * words in one, byte by byte: byte i of a packed word holds byte i of the first in its lowest bits, of the next above,
 * and so on, every value plus 2^(bits - 1), so that none is negative:
 *     4 bits    byte i = (A_i + 8) | (B_i + 8) << 4                                  four taps of A and B
 *     2 bits    byte i = (A_i + 2) | (B_i + 2) << 2 | (A_i+4 + 2) << 4 | (B_i+4 + 2) << 6       eight taps
 * One AND (its operand shifted for free) then gives four values, and SXTAB16 makes lanes and takes the offset off in
 * one instruction; or, with a mask of two lanes, one AND gives lanes that still hold the offset. Each pair starts at a
 * word; what is left of its last word is anything. */
#ifndef RQDKM_KERNELS_WEIGHTS_H
#define RQDKM_KERNELS_WEIGHTS_H

#include "rqdkm/arch.h"

/* Bytes of `words` words of four weights each, packed at `bits` bits. */
RQDKM_INLINE int32_t rqdkm_weights_bytes(int32_t words, int32_t bits) { return (words * bits + 7) / 8 * 4; }

/* The width of one pair's weights; bits as in rqdkm_packed_quant. */
RQDKM_INLINE int32_t rqdkm_pair_bits(const uint8_t *bits, int32_t pair) { return bits == 0 ? 8 : bits[pair]; }

/* 8-bit weights of any number of pairs of output channels -> dst[step][channel] lanes: (e0, e2), (e1, e3) of every four
   taps. quads: taps / 4; writes 4 * quads words. */
void rqdkm_weights_expand(uint32_t *dst, const int8_t *src, int32_t quads);

/* The same for one pair at 4 or 2 bits. Returns the weights of the next pair. */
const int8_t *rqdkm_weights_expand_packed(uint32_t *dst, const int8_t *src, int32_t quads, int32_t bits);

/* One pair at any width. Inline, as a call more per pair would show where maps are small. */
RQDKM_INLINE const int8_t *rqdkm_weights_expand_pair(uint32_t *dst, const int8_t *src, int32_t quads, int32_t bits) {
  if (bits == 8) {
    rqdkm_weights_expand(dst, src, quads);
    return src + 8 * quads;
  }
  return rqdkm_weights_expand_packed(dst, src, quads, bits);
}

/* `pairs` pairs, one after the other. bits: one entry per pair, or NULL: all have 8. Returns the end of src. */
const int8_t *rqdkm_weights_expand_pairs(uint32_t *dst, const int8_t *src, int32_t quads, int32_t pairs,
                                         const uint8_t *bits);

/* 4 or 2 bits -> the sequence at 8 bits: `words` words of four int8 values; an even number, as pairs have. */
void rqdkm_weights_unpack(uint32_t *dst, const int8_t *src, int32_t words, int32_t bits);

#endif
