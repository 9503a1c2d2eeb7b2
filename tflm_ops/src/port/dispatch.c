/* SPDX-License-Identifier: Apache-2.0 */
#include "dispatch.h"

#include <stdbool.h>

#include "rqdkm/port.h"
#include "rqdkm_model.h"

enum { kLookedAt = 256 }; /* values of a frame; rqdkm.dkm.measure has the same */

static rqdkm_policy policy;
static rqdkm_morph morph;
static rqdkm_morph_monitor monitor;
static rqdkm_morph_state state;
static bool given;
static uint32_t cycles;

void rqdkm_dispatch_init(void) {
  rqdkm_policy_open(&policy, rqdkm_model_policy, rqdkm_model_policy_bytes);
  rqdkm_morph_init(&morph, rqdkm_model_kernels, rqdkm_model_safe_kernel, rqdkm_dispatch_dqn, &policy);
  rqdkm_morph_monitor_init(&monitor, rqdkm_model_kernel_cycles, rqdkm_model_safe_kernel);
  rqdkm_set_morph(&morph);
}

void rqdkm_dispatch_given(float load, float memory, float clock, float slack) {
  state = (rqdkm_morph_state){.load = load, .memory = memory, .clock = clock, .slack = slack};
  given = true;
}

void rqdkm_dispatch_frame(void) {
  const rqdkm_tensor_info *input = &rqdkm_model_inputs[0];
  uint32_t start = rqdkm_port_cycles();
  if (!given) rqdkm_morph_sense(&monitor, rqdkm_port_clock_hz(), 0.0f, 0.0f, &state);
  rqdkm_morph_measure_input(&state, rqdkm_model_input(0), (int32_t)input->bytes, input->shape[input->rank - 1],
                            kLookedAt);
  (void)rqdkm_morph_select(&morph, &state);
  cycles = rqdkm_port_cycles() - start;
}

void rqdkm_dispatch_done(uint32_t elapsed) { rqdkm_morph_observe(&monitor, morph.selected, elapsed); }

const rqdkm_morph *rqdkm_dispatch_morph(void) { return &morph; }

uint32_t rqdkm_dispatch_cycles(void) { return cycles; }
