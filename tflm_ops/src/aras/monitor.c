/* SPDX-License-Identifier: Apache-2.0 */
/* What happened: cycles of inference and of the rest, loads, and counters that cannot be right. */
#include <math.h>

#include "aras/internal.h"

enum {
  kCounterSpan_us = 20000000, /* the cycle counter wraps after 25 s at 168 MHz */
  kApart = 1000,              /* cycles that reading the time takes at most */
};

static const float kClockError = 1.05f; /* internal oscillator: 1 % at 25 degrees; the time base may be another's */
static const float kTimeStep_us = 150.0f, kLoadGain = 0.25f, kFrameGain = 0.2f;
static const float kBusy = 0.9f; /* of the cycles: so many of the rest leave nothing to others */

void rqdkm_aras_rest_begin(rqdkm_aras *a) {
  if (a->usable && a->rest_depth++ == 0) a->rest_started = a->port->cycles(a->port->context);
}

void rqdkm_aras_rest_end(rqdkm_aras *a, uint32_t which) {
  if (!a->usable || a->rest_depth == 0) return;
  const uint32_t now = a->port->cycles(a->port->context);
  const uint32_t took = now - a->rest_started;
  a->rest_cycles[which < RQDKM_ARAS_LEVELS ? which : RQDKM_ARAS_LEVELS - 1u] += took;
  if (took > a->rest_longest) a->rest_longest = took;
  a->rest_started = now; /* what is left of an interrupted handler counts for its own class */
  a->rest_depth--;
}

void rqdkm_aras_memory(rqdkm_aras *a, uint32_t free_bytes, uint32_t total_bytes) {
  a->memory = free_bytes >= total_bytes ? 0.0f : 1.0f - (float)free_bytes / (float)total_bytes;
}

/* Time and counter of one moment: no handler ran between the two. */
static uint64_t look(const rqdkm_aras *a, uint32_t *counter) {
  uint64_t now = 0;
  for (uint32_t tries = 0; tries < 3; tries++) {
    *counter = a->port->cycles(a->port->context);
    now = a->port->now_us(a->port->context);
    if (a->port->cycles(a->port->context) - *counter < kApart) break;
  }
  return now;
}

/* Cycles since the last time, or the best guess where the counter cannot be believed. */
static float cycles_passed(rqdkm_aras *a, uint32_t counter, uint64_t span_us, bool awake, bool same_clock) {
  const uint32_t passed = counter - a->cycles;
  const float by_time = rqdkm_aras_span(0, span_us) * a->mhz[a->point];
  a->cycles = counter;
  a->glance_cycles = 0; /* counts from there; who looks within a frame sets it anew */
  if (span_us > kCounterSpan_us) return awake ? by_time : (float)passed;
  if (awake && passed == 0 && span_us > a->table->tick_us) {
    if (!a->stuck) rqdkm_aras_count(a, RQDKM_ARAS_FAULT_CYCLES);
    a->stuck = true;
    return by_time;
  }
  const float most = by_time * kClockError + kTimeStep_us * a->mhz[0];
  if (span_us == 0 && awake && (float)passed > most) {
    if (!a->stuck) rqdkm_aras_count(a, RQDKM_ARAS_FAULT_TIME);
    a->stuck = true;
    return (float)passed;
  }
  if (same_clock && (float)passed > most) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_JUMP);
    a->rest_longest = 0; /* the jump may have been within a handler */
    return by_time;
  }
  if (passed != 0 && span_us != 0) a->stuck = false;
  return (float)passed;
}

/* Rates of the rest, once per window. What comes while its class is masked is served later, in a row: the rate is the
   mean over all of it, up to a window in which the rest did not keep the core busy throughout; until then that is the
   least that it can be. Where such a window does not come, what a window holds back no longer matters in the mean, and
   the half of it is forgotten. Where there is no faster clock, only masking, what was seen before holds. */
static void close_window(rqdkm_aras *a) {
  const float span = rqdkm_aras_span(a->window_us, a->now_us);
  const float full = span * a->mhz[0];
  uint32_t cycles = 0;
  float expected = 0.0f, upper = 0.0f;
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) cycles += a->window_rest[l];
  const float window = (float)a->table->window_us, longest = kLongBehind * window, ever = 2 * kForeverBehind * window;
  const bool busy = (float)cycles > kBusy * a->window_cycles;
  for (uint32_t l = RQDKM_ARAS_LEVELS; l-- > 0;) {
    rqdkm_predictor *const seen = &a->rest[l];
    const bool done = l >= a->window_level && !busy;
    a->behind_us[l] += span;
    const bool old = !done && a->behind_us[l] > ever;
    if (a->window_rest[l] != 0 || a->behind[l] > 0.0f || seen->count != 0) { /* else there is none of this class */
      const float behind = a->behind[l] + (float)a->window_rest[l], time = a->behind_us[l];
      const bool more = time > longest && behind > seen->expected * time;
      if (done || more || old) rqdkm_predictor_update(seen, behind / time);
      a->behind[l] = done ? 0.0f : old ? 0.5f * behind : behind;
      a->window_rest[l] = 0;
      expected += seen->expected;
      upper += rqdkm_predictor_upper(seen);
    }
    a->behind_us[l] *= done ? 0.0f : old ? 0.5f : 1.0f;
    const bool holds = a->point == 0 && l < a->window_level && !old;
    a->rate[l] = holds && a->rate[l] > upper ? a->rate[l] : upper;
  }
  a->expected_rate = expected;
  a->load_inference += kLoadGain * (a->window_inference / full - a->load_inference);
  a->load_rest += kLoadGain * ((float)cycles / full - a->load_rest);
  a->window_inference = a->window_cycles = 0.0f;
  a->window_level = a->level;
  a->window_us = a->now_us;
}

/* From one frame's begin to the next: within a frame the rest may be masked, and makes up for it afterwards. */
void rqdkm_aras_close_frame(rqdkm_aras *a) {
  const float span = rqdkm_aras_span(a->frame_us, a->now_us);
  if (span >= (float)a->table->window_us) {
    const float seen = a->frame_rest / span;
    /* where the rest has not got through with its work for so long, it takes all that there is */
    const float load = rqdkm_aras_crowded(a, kForeverBehind) ? 1.0f : seen / a->mhz[0];
    a->frame_load += kFrameGain * (load - a->frame_load);
    if (fabsf(a->frame_load - a->told_load) > RQDKM_ARAS_BAND) a->told_load = a->frame_load;
  }
  a->frame_us = a->now_us;
  a->frame_rest = 0.0f;
}

/* What was taken at a raised level is given back at the rate that the share allows. A handler that was at work when the
   level was raised goes on; that it did counts. Where inference got on at level 0 nothing was waiting: what comes later
   begins a claim of its own. inference: cycles of it. */
static void keep_share(rqdkm_aras *a, float span, float served, float inference) {
  const float share = a->table->share, most = rqdkm_aras_most_masked(a),
              least = -0.25f * (1.0f - share) * (float)a->table->window_us;
  if (share <= 0.0f || (a->level == 0 && a->masked_us <= least)) return;
  const float mhz = a->mhz[a->point], tick = (float)a->table->tick_us, back = (1.0f - share) / share;
  a->masked_us += a->level > 0 ? span - served / (mhz * share) : -span * back;
  const bool waits = a->level > 0 || !a->busy || inference < 0.5f * tick * mhz;
  a->masked_us = waits && a->masked_us > least ? a->masked_us : least;
  /* at the tick that is nearest to where it should begin and end */
  const float ends = rqdkm_aras_repaid(a) + 0.5f * tick * back;
  a->make_up = a->masked_us + 0.5f * tick >= most || (a->make_up && a->masked_us > ends);
}

void rqdkm_aras_account(rqdkm_aras *a, bool awake) {
  uint32_t counter = 0;
  const uint64_t now = look(a, &counter);
  const uint32_t clock = a->port->clock(a->port->context);
  const bool same_clock = clock == a->point;
  uint64_t span = now - a->now_us;
  if (now < a->now_us) { /* begin anew from there */
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_TIME);
    span = 0;
    a->window_us = a->frame_us = now;
  }
  a->now_us = now;
  float served = 0.0f, inference = cycles_passed(a, counter, span, awake, same_clock);
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) {
    const uint32_t total = a->rest_cycles[l], passed = total - a->rest_seen[l];
    a->rest_seen[l] = total;
    if (passed == 0) continue;
    a->window_rest[l] += passed;
    a->idle_rest += passed;
    served += (float)passed;
    a->frame_rest += (float)passed;
  }
  /* a handler that this look interrupts counts as far as it has come */
  const float begun = a->rest_depth != 0 ? (float)(uint32_t)(counter - a->rest_started) : 0.0f;
  served += begun - a->rest_begun;
  a->rest_begun = begun;
  inference -= served;
  if (a->busy) {
    const float done = a->done + inference / a->table->point[a->point].factor;
    a->done = done > 0.0f ? done : 0.0f;
    const float sum = a->window_inference + inference;
    a->window_inference = sum > 0.0f ? sum : 0.0f;
  }
  if (!same_clock) { /* the crystal failed: the hardware fell back by itself */
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_CLOCK);
    a->point = clock < a->table->points ? clock : a->table->safe;
    a->clock_failures = 1;
    a->retry_us = now;
  }
  const float time = rqdkm_aras_span(0, span);
  a->window_cycles += time * a->mhz[a->point];
  keep_share(a, time, served, inference);
  if (a->now_us - a->window_us >= a->table->window_us) close_window(a);
}
