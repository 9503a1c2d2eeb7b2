/* SPDX-License-Identifier: Apache-2.0 */
/* The products of all Winograd kernels: M[p] = sum over channels of V[p] U[p], for 4 tiles x 2 output channels.
 * Layouts in rqdkm/winograd.h. */
#ifndef RQDKM_CONV_WINOGRAD_GEMM_H
#define RQDKM_CONV_WINOGRAD_GEMM_H

#include "rqdkm/arch.h"

enum { RQDKM_WINOGRAD_BLOCK_V = 32, RQDKM_WINOGRAD_BLOCK_U = 16 }; /* words of one block at one position */

/* Put before a loop of at most 8 turns: GCC unrolls it whole (at -O2 it would not). */
#if defined(__GNUC__)
#define RQDKM_WINOGRAD_UNROLL _Pragma("GCC unroll 8")
#else
#define RQDKM_WINOGRAD_UNROLL
#endif

/* Pinned registers: low ones for pointers and loaded words give 16-bit loads, and no accumulator is ever moved. */
#if RQDKM_DSP && defined(__OPTIMIZE__)
#define RQDKM_WINOGRAD_ASM 1
#define RQDKM_PIN(type, name, reg) register type name __asm(reg)
#else
#define RQDKM_WINOGRAD_ASM 0
#define RQDKM_PIN(type, name, reg) type name
#endif

typedef struct {
  const uint32_t *v, *u;
  uint32_t *m;
  int32_t positions; /* P */
  int32_t blocks;    /* consecutive blocks are `positions` blocks' words apart in V and U */
} rqdkm_winograd_product;

void rqdkm_winograd_gemm(const rqdkm_winograd_product *product);

#endif
