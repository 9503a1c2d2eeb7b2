/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RQDKM_ARAS_INTERNAL_H
#define RQDKM_ARAS_INTERNAL_H

#include "rqdkm/aras.h"
#include "rqdkm/types.h"

/* False: another call is at work, or the table is bad. */
bool rqdkm_aras_enter(rqdkm_aras *aras);
void rqdkm_aras_leave(rqdkm_aras *aras);

/* Brings done, loads, rates and masked time up to the present. awake: the core has run since the last time. */
void rqdkm_aras_account(rqdkm_aras *aras, bool awake);

/* A frame begins: the load that DKM is told. */
void rqdkm_aras_close_frame(rqdkm_aras *aras);

/* Chooses point and level for what is left of the frame, which begins now or is under way, and sets them. */
void rqdkm_aras_decide(rqdkm_aras *aras, bool begins);

/* The longest that so many cycles of a frame may take, should it be in danger from now on. */
float rqdkm_aras_longest_us(const rqdkm_aras *aras, float cycles);

/* Sets them; what the port does not do is counted and followed. */
void rqdkm_aras_set_point(rqdkm_aras *aras, uint32_t point);
void rqdkm_aras_set_level(rqdkm_aras *aras, uint32_t level);

/* A look within a frame, a whole one or a glance, and a decision if one is due. counter: of cycles, now. early: it has
   not come as far as it should have by now. */
void rqdkm_aras_check(rqdkm_aras *aras, uint32_t counter, bool early);

/* What the rest did since the last wait began is known now. */
void rqdkm_aras_close_idle(rqdkm_aras *aras);

/* Ways to wait, once. */
void rqdkm_aras_prepare_idle(rqdkm_aras *aras);

static inline void rqdkm_aras_count(rqdkm_aras *aras, rqdkm_aras_fault fault) { aras->faults[fault]++; }

/* Cycles per microsecond that a frame gets at the fastest point and the highest level while the rest is held back, and
   with its share, whatever it does. A part is left for interrupts' entry and exit, and for what ticks round. */
static inline float rqdkm_aras_alone(const rqdkm_aras *aras) { return 0.95f * aras->mhz[0]; }
static inline float rqdkm_aras_granted(const rqdkm_aras *aras) {
  return rqdkm_aras_alone(aras) * (1.0f - aras->table->share);
}
/* Time at raised levels that may be owed to the rest at most, and where giving back ends. A frame without a reserve
   borrows all that the promise allows. */
static inline float rqdkm_aras_most_masked(const rqdkm_aras *aras) {
  return (aras->late ? 1.0f : 1.0f - aras->table->share) * (float)aras->table->window_us;
}
static inline float rqdkm_aras_repaid(const rqdkm_aras *aras) {
  return rqdkm_aras_most_masked(aras) - 0.5f * (1.0f - aras->table->share) * (float)aras->table->window_us;
}
/* The rest works without end, and has not got through with it for so long: at the most frugal clocks, or at any. */
enum { kLongBehind = 8, kForeverBehind = 24 }; /* windows */
static inline bool rqdkm_aras_crowded(const rqdkm_aras *aras, uint32_t windows) {
  return aras->pressed && aras->behind_us[0] > (float)windows * (float)aras->table->window_us;
}
/* From then to now, microseconds; 0 if it lies ahead. Differences beyond an hour are as good as an hour. */
static inline float rqdkm_aras_span(uint64_t from, uint64_t to) {
  const uint64_t span = to > from ? to - from : 0;
  return span < 3600000000u ? (float)(uint32_t)span : 3.6e9f;
}
/* As the chip converts: what is out of range is undefined in C. */
static inline uint32_t rqdkm_aras_whole(float x) {
  return x > 0.0f ? (x < 4294967296.0f ? (uint32_t)x : UINT32_MAX) : 0u;
}

#endif
