/* SPDX-License-Identifier: Apache-2.0 */
/* The products of all Winograd kernels: M[p] = sum over channels of V[p] U[p], for 4 tiles x 2 output channels.
 * Layouts in rqdkm/winograd.h; consecutive blocks of V and U lie P positions apart. */
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

/* Hides from the compiler what it knows of a variable; costs no instruction. */
#if defined(__GNUC__)
#define RQDKM_WINOGRAD_OPAQUE(x) __asm volatile("" : "+r"(x))
#else
#define RQDKM_WINOGRAD_OPAQUE(x) ((void)0)
#endif

/* The asm blocks take every register but sp, so they need optimisation (no frame pointer). */
#if RQDKM_DSP && defined(__OPTIMIZE__) && !defined(RQDKM_WINOGRAD_NO_ASM)
#define RQDKM_WINOGRAD_ASM 1
#else
#define RQDKM_WINOGRAD_ASM 0
#endif

/* v, u: position 0 of the first block; m: P x 8 words; channels: input channels, gemm_6 adds up three kernel rows. */
typedef void (*rqdkm_winograd_gemm)(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels);
void rqdkm_winograd_gemm_81(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels);
void rqdkm_winograd_gemm_36(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels);
void rqdkm_winograd_gemm_16(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels);
void rqdkm_winograd_gemm_6(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels);

#endif
