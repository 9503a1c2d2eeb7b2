/* SPDX-License-Identifier: Apache-2.0 */
/* From accumulator to output with the constants of a rqdkm_output_quant. */
#ifndef RQDKM_KERNELS_OUTPUT_H
#define RQDKM_KERNELS_OUTPUT_H

#include "rqdkm/requantize.h"

/* acc: the accumulator, shifted left as the form wants it (once for WIDE too). Saturates to int8. */
RQDKM_INLINE int8_t rqdkm_quantize_output(int32_t acc, rqdkm_requantize_form form, const rqdkm_output_quant *q) {
  switch (form) {
    case RQDKM_REQUANTIZE_FLOOR:
      return (int8_t)rqdkm_requantize_floor(acc, q->multiplier, q->offset);
    case RQDKM_REQUANTIZE_UP:
      return (int8_t)rqdkm_requantize_up(acc, q->multiplier, q->offset, q->shift);
    case RQDKM_REQUANTIZE_AWAY:
      return (int8_t)rqdkm_requantize_away(acc, q->multiplier, q->offset, q->shift);
    default:
      return (int8_t)rqdkm_requantize_wide(acc >> 1, q->multiplier, q->shift, q->offset, -128, 127);
  }
}

#endif
