/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "port/crc32.h"
#include "rqdkm/arch.h"
#include "rqdkm/morph.h"
#include "rqdkm/types.h"

#define MOST_BIAS (1 << 28) /* sums of 32 products of int8 stay far below 2^31 then */

/* Words of a row of int8 weights. */
static uint32_t words(uint32_t inputs) { return (inputs + 3u) / 4u; }

int32_t rqdkm_policy_open(rqdkm_policy *policy, const void *blob, uint32_t size) {
  *policy = (rqdkm_policy){0};
  const rqdkm_policy_head *head = (const rqdkm_policy_head *)blob;
  if (blob == 0 || (uintptr_t)blob % 4u != 0 || size < sizeof *head || head->magic != RQDKM_POLICY_MAGIC ||
      head->version != RQDKM_POLICY_VERSION) {
    return RQDKM_ERROR_ARGUMENT;
  }
  if (head->kernels < 1 || head->kernels > RQDKM_MORPH_KERNELS) {
    return RQDKM_ERROR_ARGUMENT;
  }
  for (int32_t i = 0; i < 2; i++) {
    if (head->hidden[i] < 1 || head->hidden[i] > RQDKM_POLICY_HIDDEN || head->shift[i] > 24 || head->reserved[i] != 0) {
      return RQDKM_ERROR_ARGUMENT;
    }
  }
  const uint32_t widths[4] = {RQDKM_MORPH_STATES, head->hidden[0], head->hidden[1], head->kernels};
  const uint8_t *const start = (const uint8_t *)blob;
  uint32_t at = sizeof *head;
  rqdkm_policy found = {.head = head};
  for (int32_t layer = 0; layer < 3; layer++) {
    found.bias[layer] = (const int32_t *)(const void *)(start + at);
    at += 4u * widths[layer + 1];
    found.weights[layer] = (const int8_t *)(start + at);
    at += 4u * words(widths[layer]) * widths[layer + 1];
  }
  if (size != at + 4u || rqdkm_crc32(0, start, at) != *(const uint32_t *)(const void *)(start + at)) {
    return RQDKM_ERROR_ARGUMENT;
  }
  for (int32_t layer = 0; layer < 3; layer++) {
    for (uint32_t i = 0; i < widths[layer + 1]; i++) {
      if (found.bias[layer][i] < -MOST_BIAS || found.bias[layer][i] > MOST_BIAS) {
        return RQDKM_ERROR_ARGUMENT;
      }
    }
  }
  *policy = found;
  return RQDKM_OK;
}

/* (x - low) * scale, cut to 0 .. 254, less 127. No addition follows a product, so that no compiler can fuse them. */
static int8_t scaled(float x, float low, float scale) {
  const float y = (x - low) * scale;
  return (int8_t)((y <= 0.0f ? 0 : y >= 254.0f ? 254 : (int32_t)y) - 127);
}

int32_t rqdkm_morph_normalise(const rqdkm_morph_state *state, int8_t inputs[RQDKM_MORPH_STATES]) {
  const float values[RQDKM_MORPH_STATES] = {state->load, state->memory,   state->clock, state->slack,
                                            state->mean, state->variance, state->snr};
  for (int32_t i = 0; i < RQDKM_MORPH_STATES; i++) {
    if (!isfinite(values[i])) {
      return RQDKM_ERROR_ARGUMENT;
    }
  }
  const float deviation = values[5] > 0.0f ? sqrtf(values[5]) : 0.0f;
  inputs[0] = scaled(values[0], 0.0f, 255.0f);
  inputs[1] = scaled(values[1], 0.0f, 255.0f);
  inputs[2] = scaled(values[2], 0.0f, 255.0f / 168e6f);
  inputs[3] = scaled(values[3], -1.0f, 127.5f);
  inputs[4] = scaled(values[4], -128.0f, 1.0f);
  inputs[5] = scaled(deviation, 0.0f, 255.0f / 128.0f);
  inputs[6] = scaled(values[6], -10.0f, 255.0f / 50.0f);
  return RQDKM_OK;
}

/* bias + w x; w and x are filled up with zeros, or w is, to whole words. */
RQDKM_INLINE int32_t neuron(int32_t bias, const int8_t *w, const int8_t *x, int32_t count) {
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < count; i++, w += 4, x += 4) {
    const uint32_t a = rqdkm_load32(w), b = rqdkm_load32(x);
    bias = rqdkm_smlad(rqdkm_sxtb16(a), rqdkm_sxtb16(b), bias);
    bias = rqdkm_smlad(rqdkm_sxtb16_ror8(a), rqdkm_sxtb16_ror8(b), bias);
  }
  return bias;
}

void rqdkm_policy_values(const rqdkm_policy *policy, const int8_t inputs[RQDKM_MORPH_STATES],
                         int32_t values[RQDKM_MORPH_KERNELS]) {
  const int32_t widths[4] = {RQDKM_MORPH_STATES, policy->head->hidden[0], policy->head->hidden[1],
                             policy->head->kernels};
  int8_t x[2][RQDKM_POLICY_HIDDEN] = {{0}};
  memcpy(x[0], inputs, RQDKM_MORPH_STATES);
  for (int32_t layer = 0; layer < 3; layer++) {
    const int32_t row = (int32_t)words((uint32_t)widths[layer]);
    const int8_t *const from = x[layer % 2], *w = policy->weights[layer];
    int8_t *const to = x[1 - layer % 2];
    for (int32_t o = 0; o < widths[layer + 1]; o++, w += 4 * row) {
      int32_t sum = neuron(policy->bias[layer][o], w, from, row);
      if (layer == 2) {
        values[o] = sum;
      } else {
        sum = sum < 0 ? 0 : sum >> policy->head->shift[layer];
        to[o] = (int8_t)(sum > 127 ? 127 : sum);
      }
    }
  }
}

int32_t rqdkm_dispatch_dqn(const rqdkm_morph_state *state, void *context) {
  const rqdkm_policy *policy = (const rqdkm_policy *)context;
  int8_t inputs[RQDKM_MORPH_STATES];
  int32_t values[RQDKM_MORPH_KERNELS];
  if (policy == 0 || policy->head == 0 || rqdkm_morph_normalise(state, inputs) != 0) {
    return -1;
  }
  rqdkm_policy_values(policy, inputs, values);
  int32_t best = 0;
  for (int32_t k = 1; k < policy->head->kernels; k++) {
    best = values[k] > values[best] ? k : best;
  }
  return best;
}
