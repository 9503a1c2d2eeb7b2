/* SPDX-License-Identifier: Apache-2.0 */
/* F(4, 3) along one axis, on integers: the matrices that f4x4 (both axes) and f4x1 (x only) are made of.
 *
 * Lavin and Gray's matrices with the rows of G scaled by (4, -6, -6, 24, 24, 1) to integers:
 *     G   = [ 1  0 0 | 1  1 1 | 1 -1 1 | 1  2 4 | 1 -2 4 | 0 0 1 ]
 *     B^T = [ 4 0 -5 0 1 0 | 0 -4 -4 1 1 0 | 0 4 -4 -1 1 0 | 0 -2 -1 2 1 0 | 0 2 -1 -2 1 0 | 0 4 0 -5 0 1 ]
 *     A^T = [ 6 -4 -4 1 1 0 | 0 -2 2 1 -1 0 | 0 -1 -1 1 1 0 | 0 -1 1 2 -2 6 ]
 * which gives (24 y0, 12 y1, 6 y2, 6 y3) = 3 * (2^3 y0, 2^2 y1, 2 y2, 2 y3). */
#ifndef RQDKM_CONV_WINOGRAD_F4_H
#define RQDKM_CONV_WINOGRAD_F4_H

#include "rqdkm/arch.h"

/* e = B^T d. Two channels per word as ONE integer lo + 65536 hi (lo may be negative and borrow from hi), because plain
   additions shift an operand for free; rqdkm_winograd_lanes turns it into two lanes. */
RQDKM_INLINE void rqdkm_winograd_f4_input(const uint32_t d[6], uint32_t e[6]) {
  const uint32_t p = d[4] - (d[2] << 2), q = d[3] - (d[1] << 2), r = d[4] - d[2], s = d[3] - d[1];
  e[0] = r + ((d[0] - d[2]) << 2);
  e[1] = p + q;
  e[2] = p - q;
  e[3] = r + (s << 1);
  e[4] = r - (s << 1);
  e[5] = d[5] - d[3] - (s << 2);
}

/* lo + 0x8000 + 65536 hi -> lanes (lo, hi): with the bias nothing borrows. B^T of (0, 0, 0, 0, 1, 1) is all ones, so
   biasing inputs 4 and 5 biases every output. */
enum { RQDKM_WINOGRAD_BIAS = 0x8000 };
RQDKM_INLINE uint32_t rqdkm_winograd_lanes(uint32_t biased) { return biased ^ RQDKM_WINOGRAD_BIAS; }

/* u = G (a, b, c), lane-wise. */
RQDKM_INLINE void rqdkm_winograd_f4_weights(uint32_t a, uint32_t b, uint32_t c, uint32_t u[6]) {
  const uint32_t s = rqdkm_sadd16(a, c), b2 = rqdkm_sadd16(b, b), c2 = rqdkm_sadd16(c, c);
  const uint32_t h = rqdkm_sadd16(a, rqdkm_sadd16(c2, c2));
  u[0] = a;
  u[1] = rqdkm_sadd16(s, b);
  u[2] = rqdkm_ssub16(s, b);
  u[3] = rqdkm_sadd16(h, b2);
  u[4] = rqdkm_ssub16(h, b2);
  u[5] = c;
}

/* y = A^T m, modulo 2^32. */
RQDKM_INLINE void rqdkm_winograd_f4_output(const uint32_t m[6], uint32_t y[4]) {
  const uint32_t a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
  y[0] = c - (a << 2) + 6u * m[0];
  y[1] = d - (b << 1);
  y[2] = c - a;
  y[3] = (d << 1) - b + 6u * m[5];
}

#endif
