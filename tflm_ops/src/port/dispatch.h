/* SPDX-License-Identifier: Apache-2.0 */
/* Selects a kernel before every frame that the server runs, where the model morphs (docs/morph.md). */
#ifndef RQDKM_SRC_PORT_DISPATCH_H
#define RQDKM_SRC_PORT_DISPATCH_H

#include <stdint.h>

#include "rqdkm/morph.h"

/* What the generated policy.c knows of the model. */
extern const uint32_t rqdkm_model_policy[]; /* blob of rqdkm_policy_open */
extern const uint32_t rqdkm_model_policy_bytes;
extern const uint32_t rqdkm_model_kernel_cycles[RQDKM_MORPH_KERNELS];
extern const int32_t rqdkm_model_kernels, rqdkm_model_safe_kernel;

/* Opens the policy; called once, before the first frame. A bad one means the safe kernel, counted at every frame. */
void rqdkm_dispatch_init(void);
/* The four numbers around the input, until the next call; as at the start: measured, without a limit. */
void rqdkm_dispatch_given(float load, float memory, float clock, float slack);
/* Looks at the input and selects the kernel of the frame that comes. */
void rqdkm_dispatch_frame(void);
/* The frame is done; elapsed: its cycles. */
void rqdkm_dispatch_done(uint32_t elapsed);

const rqdkm_morph *rqdkm_dispatch_morph(void);
/* Cycles of the last selection, the look at the input included. */
uint32_t rqdkm_dispatch_cycles(void);

#endif
