/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/morph.h"

#ifdef RQDKM_MORPH_START /* a build that begins with another kernel than the safe one */
static const rqdkm_morph start = {.selected = RQDKM_MORPH_START};
static const rqdkm_morph *current = &start;
#else
static const rqdkm_morph *current;
#endif

void rqdkm_set_morph(const rqdkm_morph *morph) { current = morph; }

int32_t rqdkm_morph_kernel(int32_t kernels, int32_t safe) {
  if (current == 0 || current->selected < 0 || current->selected >= kernels) {
    return safe;
  }
  return current->selected;
}
