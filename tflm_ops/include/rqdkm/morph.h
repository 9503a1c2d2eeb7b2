/* SPDX-License-Identifier: Apache-2.0 */
/* Dynamic kernel morphing: which of a layer's kernels computes the next frame (docs/morph.md).
 *
 * Once per frame the application fills in a rqdkm_morph_state and calls rqdkm_morph_select; the generated code of every
 * morphing layer then runs the kernel that was selected. Who selects is a function of the application's choice: the
 * embedded DQN (rqdkm_dispatch_dqn, the default), a fixed kernel (rqdkm_dispatch_fixed), or its own. Whatever it
 * answers, only kernels that exist are run: an answer out of range, a state that holds NaN or infinity and a policy
 * that is missing or damaged select the safe kernel and are counted. Nothing here allocates, waits, or touches a
 * peripheral. */
#ifndef RQDKM_MORPH_H
#define RQDKM_MORPH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RQDKM_MORPH_KERNELS 5 /* most kernels that a layer can have */
#define RQDKM_MORPH_STATES 7

/* What a decision is made from. The DQN sees every number on a scale of -127 to 127; ranges are those that it spans,
   beyond them it saturates. */
typedef struct {
  float load;     /* 0 to 1: share of the CPU that everything but inference takes */
  float memory;   /* 0 to 1: share of the working memory that is taken by others */
  float clock;    /* 0 to 168e6: core clock, Hz */
  float slack;    /* -1 to 1: rqdkm_morph_slack of the time the frame may take and what the safe kernel needs now */
  float mean;     /* -128 to 127: of the int8 input */
  float variance; /* 0 to 16384: of the input; seen as its square root */
  float snr;      /* -10 to 40: signal to noise of the input, dB, estimated */
} rqdkm_morph_state;

/* ---- the input's three numbers, in one pass */

/* Fills in mean, variance and snr. Looks at no more than `most` values (16 to 4096, in words of four) spread evenly
   over the `count` int8 values of a frame; count >= 4 + pitch. pitch: bytes to the next pixel of the same channel,
   >= 1.

   Noise is half the mean squared difference of neighbouring pixels, signal the variance less the noise, so texture
   counts as noise: a number to compare frames by, not a measurement. 0 dB where neither differs from zero. */
void rqdkm_morph_measure_input(rqdkm_morph_state *state, const int8_t *input, int32_t count, int32_t pitch,
                               int32_t most);

/* ---- the four numbers around it */

/* What the chip knows of its own speed: cycles of a frame nobody disturbs, by kernel, as measured when the firmware was
   made (0: not measured), and the load that frames have met since. */
typedef struct {
  const uint32_t *cycles; /* RQDKM_MORPH_KERNELS entries */
  int32_t safe;           /* kernel that slack is reckoned with */
  float load;             /* 0 to 0.95 */
} rqdkm_morph_monitor;

void rqdkm_morph_monitor_init(rqdkm_morph_monitor *monitor, const uint32_t cycles[RQDKM_MORPH_KERNELS], int32_t safe);

/* A frame has been computed with `kernel` and took `elapsed` core cycles, interruptions included. What it took longer
   than undisturbed is the others' share: load moves half the way to 1 - cycles / elapsed. Frames whose cycles are not
   known, or which were faster, count as undisturbed. */
void rqdkm_morph_observe(rqdkm_morph_monitor *monitor, int32_t kernel, uint32_t elapsed);

/* Time that a frame may take less what it needs, over the longer of the two: -1 to 1, 0 where it just suffices. Both in
   one unit, 0 or more. */
static inline float rqdkm_morph_slack(float available, float needed) {
  const float longer = available > needed ? available : needed;
  return longer > 0.0f ? (available - needed) / longer : 1.0f;
}

/* Fills in load, memory, clock and slack. clock_hz: core clock. limit_s: time that the next frame may take, seconds;
   0 or less: no limit, slack is 1. memory: 0 to 1, the share of the working memory that others hold. */
void rqdkm_morph_sense(const rqdkm_morph_monitor *monitor, uint32_t clock_hz, float limit_s, float memory,
                       rqdkm_morph_state *state);

/* ---- the DQN */

/* A policy as rqdkm exports it, 4-byte aligned, little-endian: head, then for each of three layers int32 biases and
   int8 weights [output][input], rows filled up to whole words with zeros, then the CRC-32 of all before. */
typedef struct {
  uint32_t magic;           /* RQDKM_POLICY_MAGIC */
  uint8_t version, kernels; /* RQDKM_POLICY_VERSION; 1 to RQDKM_MORPH_KERNELS */
  uint8_t hidden[2];        /* neurons of the hidden layers, 1 to RQDKM_POLICY_HIDDEN */
  uint8_t shift[2];         /* right shift of their sums, 0 to 24 */
  uint8_t reserved[2];      /* 0 */
} rqdkm_policy_head;

#define RQDKM_POLICY_MAGIC 0x50445152u /* "RQDP" */
#define RQDKM_POLICY_VERSION 2         /* 1 was learned with another slack */
#define RQDKM_POLICY_HIDDEN 32

typedef struct {
  const rqdkm_policy_head *head; /* NULL: there is no policy that can be used */
  const int32_t *bias[3];
  const int8_t *weights[3];
} rqdkm_policy;

/* Checks `size` bytes of a policy and its checksum. Returns 0, or a negative rqdkm_status with policy->head NULL: the
   policy selects nothing then, which is safe. Costs about 30 cycles per byte; call it once. */
int32_t rqdkm_policy_open(rqdkm_policy *policy, const void *blob, uint32_t size);

/* The seven numbers as the DQN sees them. Returns 0, or RQDKM_ERROR_ARGUMENT if one is NaN or infinite. */
int32_t rqdkm_morph_normalise(const rqdkm_morph_state *state, int8_t inputs[RQDKM_MORPH_STATES]);

/* Q values of all kernels, in the policy's own unit. Hidden layers: min(127, max(0, (bias + w x) >> shift)). */
void rqdkm_policy_values(const rqdkm_policy *policy, const int8_t inputs[RQDKM_MORPH_STATES],
                         int32_t values[RQDKM_MORPH_KERNELS]);

/* ---- dispatch */

/* Selects a kernel, 0 to kernels - 1; anything else selects the safe one. */
typedef int32_t (*rqdkm_dispatch_fn)(const rqdkm_morph_state *state, void *context);

/* context: a rqdkm_policy. The kernel with the greatest Q value, the first of equals; negative if the policy cannot be
   used or knows another number of kernels than rqdkm_morph_init was told. */
int32_t rqdkm_dispatch_dqn(const rqdkm_morph_state *state, void *context);
/* context: an int32_t that holds the kernel. */
int32_t rqdkm_dispatch_fixed(const rqdkm_morph_state *state, void *context);

typedef enum {
  RQDKM_MORPH_OK = 0,
  RQDKM_MORPH_BAD_STATE = 1,    /* NaN or infinity; nobody was asked */
  RQDKM_MORPH_BAD_DECISION = 2, /* out of range, or no dispatch function, or no usable policy */
} rqdkm_morph_event;

typedef struct {
  rqdkm_dispatch_fn dispatch;
  void *context;
  int32_t kernels, safe, selected;
  uint32_t frames;        /* selections since rqdkm_morph_init; wraps, as all counters do */
  uint32_t fallbacks;     /* of these, how often the safe kernel was taken for want of an answer */
  rqdkm_morph_event last; /* why, at the last selection */
  uint32_t chosen[RQDKM_MORPH_KERNELS];
} rqdkm_morph;

/* kernels: 1 to RQDKM_MORPH_KERNELS; safe: 0 to kernels - 1, selected until the first rqdkm_morph_select. Out of range
   they become 1 and 0. dispatch may be NULL: always the safe kernel, counted. */
void rqdkm_morph_init(rqdkm_morph *morph, int32_t kernels, int32_t safe, rqdkm_dispatch_fn dispatch, void *context);

/* Selects for the next frame; returns the kernel. */
int32_t rqdkm_morph_select(rqdkm_morph *morph, const rqdkm_morph_state *state);

/* Whose selection the generated code of all morphing layers follows; NULL, as at the start: the safe kernel. Not to be
   called, nor rqdkm_morph_select, while a frame is computed. */
void rqdkm_set_morph(const rqdkm_morph *morph);
/* The kernel of a layer that has `kernels` of them: the selected one, or `safe` if it has no such. Called by the
   generated code. */
int32_t rqdkm_morph_kernel(int32_t kernels, int32_t safe);

#ifdef __cplusplus
}
#endif
#endif
