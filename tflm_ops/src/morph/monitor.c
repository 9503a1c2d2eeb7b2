/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/morph.h"

static const float kMostLoad = 0.95f;

void rqdkm_morph_monitor_init(rqdkm_morph_monitor *monitor, const uint32_t cycles[RQDKM_MORPH_KERNELS], int32_t safe) {
  *monitor = (rqdkm_morph_monitor){.cycles = cycles, .safe = safe >= 0 && safe < RQDKM_MORPH_KERNELS ? safe : 0};
}

void rqdkm_morph_observe(rqdkm_morph_monitor *monitor, int32_t kernel, uint32_t elapsed) {
  uint32_t alone = kernel >= 0 && kernel < RQDKM_MORPH_KERNELS ? monitor->cycles[kernel] : 0;
  float met = 0.0f;
  if (alone != 0 && elapsed > alone) {
    met = (float)(elapsed - alone) / (float)elapsed;
  }
  monitor->load += 0.5f * (met - monitor->load);
  if (monitor->load > kMostLoad) {
    monitor->load = kMostLoad;
  }
}

void rqdkm_morph_sense(const rqdkm_morph_monitor *monitor, uint32_t clock_hz, float limit_s, float memory,
                       rqdkm_morph_state *state) {
  state->load = monitor->load;
  state->memory = memory;
  state->clock = (float)clock_hz;
  state->slack = 1.0f;
  if (limit_s > 0.0f) {
    float available = (float)clock_hz * (1.0f - monitor->load) * limit_s; /* cycles until then */
    float needed = (float)monitor->cycles[monitor->safe];
    state->slack = rqdkm_morph_slack(available, needed);
  }
}
