/* SPDX-License-Identifier: Apache-2.0 */
/* From the accumulator of 16-bit lanes to the output, with the constants of a rqdkm_output_quant.
 *
 * acc arrives shifted left by lane_shift, a constant of the kernel. Both roundings of requantize.h are one floor,
 *     out = ((acc * multiplier >> 32) + offset + addend) >> right_shift        (SMMLA, SSAT with a shift)
 * with an addend for negative acc only, which rounds their halves away from zero. Forms, fastest first; the compiler
 * proves one per layer, from the intervals that its accumulators can reach (rqdkm_tvm/kernels/lanes.py):
 *     FLOOR       2 instructions: right shift RQDKM_RIGHT_SHIFT, no addend
 *     SHIFT       3: right shift `shift`, no addend
 *     AWAY        4: right shift RQDKM_RIGHT_SHIFT, addend `shift`
 *     AWAY_SHIFT  5: right shift `shift`, the addend of an exact half
 *     WIDE        the definition, 64-bit, of the accumulator itself
 * All saturate to int8; a narrower clamp is applied afterwards. */
#ifndef RQDKM_KERNELS_OUTPUT_H
#define RQDKM_KERNELS_OUTPUT_H

#include "rqdkm/kernels/expand.h"
#include "rqdkm/requantize.h"

#define RQDKM_RIGHT_SHIFT 12
#define RQDKM_HALF_ADDEND(lane_shift) (-(1 << ((lane_shift) - 1)))

RQDKM_INLINE int8_t rqdkm_quantize_output(int32_t acc, rqdkm_requantize_form form, const rqdkm_output_quant *q,
                                          const int32_t lane_shift) {
  const int32_t negative = acc >> 31;
  switch (form) {
    case RQDKM_REQUANTIZE_FLOOR:
      return (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, q->multiplier, q->offset) >> RQDKM_RIGHT_SHIFT);
    case RQDKM_REQUANTIZE_SHIFT:
      return (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, q->multiplier, q->offset) >> q->shift);
    case RQDKM_REQUANTIZE_AWAY:
      return (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, q->multiplier, q->offset + (negative & q->shift)) >>
                                 RQDKM_RIGHT_SHIFT);
    case RQDKM_REQUANTIZE_AWAY_SHIFT:
      return (int8_t)rqdkm_ssat8(
          rqdkm_smmla(acc, q->multiplier, q->offset + (negative & RQDKM_HALF_ADDEND(lane_shift))) >> q->shift);
    default:
      return (int8_t)rqdkm_requantize_wide(acc >> lane_shift, q->multiplier, q->shift, q->offset, -128, 127);
  }
}

#endif
