/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RQDKM_SRC_PORT_FAULT_H
#define RQDKM_SRC_PORT_FAULT_H

#include <stdint.h>

#define RQDKM_FAULT_TRACE 8

/* What an Armv7-M processor knows when it takes an exception nobody handles. Sent in this order, 23 words and the
 * trace. */
typedef struct {
  uint32_t exception;                         /* IPSR: 3 hard fault, ..., 16 + n unexpected interrupt n */
  uint32_t r0, r1, r2, r3, r12, lr, pc, xpsr; /* the stacked frame; all 0 when it could not be stacked */
  uint32_t r4, r5, r6, r7, r8, r9, r10, r11;
  uint32_t sp, exc_return; /* stack pointer before the exception */
  uint32_t cfsr, hfsr, mmfar, bfar;
  uint32_t trace[RQDKM_FAULT_TRACE]; /* words of the stack that look like return addresses, innermost first; 0 = none */
} rqdkm_fault;

/* Writes one line of text and one FAULT frame. Bounded by the port's own write time-outs. */
void rqdkm_fault_report(const rqdkm_fault *fault);

#endif
