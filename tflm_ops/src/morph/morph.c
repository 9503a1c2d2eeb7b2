/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/morph.h"

void rqdkm_morph_init(rqdkm_morph *morph, int32_t kernels, int32_t safe, rqdkm_dispatch_fn dispatch, void *context) {
  *morph = (rqdkm_morph){.dispatch = dispatch, .context = context, .kernels = 1};
  if (kernels >= 1 && kernels <= RQDKM_MORPH_KERNELS) {
    morph->kernels = kernels;
  }
  if (safe >= 0 && safe < morph->kernels) {
    morph->safe = safe;
  }
  morph->selected = morph->safe;
}

int32_t rqdkm_morph_select(rqdkm_morph *morph, const rqdkm_morph_state *state) {
  int8_t inputs[RQDKM_MORPH_STATES];
  int32_t kernel = -1;
  morph->last = RQDKM_MORPH_OK;
  if (rqdkm_morph_normalise(state, inputs) != 0) {
    morph->last = RQDKM_MORPH_BAD_STATE;
  } else {
    kernel = morph->dispatch == 0 ? -1 : morph->dispatch(state, morph->context);
    if (kernel < 0 || kernel >= morph->kernels) {
      morph->last = RQDKM_MORPH_BAD_DECISION;
    }
  }
  if (morph->last != RQDKM_MORPH_OK) {
    kernel = morph->safe;
    morph->fallbacks++;
  }
  morph->frames++;
  morph->chosen[kernel]++;
  morph->selected = kernel;
  return kernel;
}

int32_t rqdkm_dispatch_fixed(const rqdkm_morph_state *state, void *context) {
  (void)state;
  return *(const int32_t *)context;
}
