/* SPDX-License-Identifier: Apache-2.0 */
/* How to wait: at which clock, asleep, dozing or stopped.
 *
 * Each costs an amount once and a current for as long as it lasts, so that the mean length of idle times is all that
 * has to be known about them. Counted are the change of clock now, the waiting, the way back to the clock, what the
 * rest computes when it wakes the core, and, where a frame may come next, the change to the clock of frames. A way of
 * waiting from which a frame in its worst case could not be finished any more is not taken. */
#include "aras/internal.h"

enum { kShort_us = 20 };
static const float kGain = 0.1f, kKeepUp = 0.8f;

/* From the moment something wakes the core up until `point` drives it. */
static float latency(const rqdkm_aras *a, uint32_t point, rqdkm_aras_idle_mode mode) {
  const rqdkm_aras_table *t = a->table;
  if (mode == RQDKM_ARAS_SLEEP) return 0.0f;
  return (mode == RQDKM_ARAS_STOP ? t->wake_us : 0.0f) + t->switch_us[t->safe][point];
}

/* Nanojoules per idle time of `gap` microseconds. */
static float energy(const rqdkm_aras *a, uint32_t point, rqdkm_aras_idle_mode mode, float gap) {
  const rqdkm_aras_table *t = a->table;
  const float frame = t->switch_us[point][a->efficient] * a->frame_share;
  float changes = t->switch_us[a->point][point] + frame, found = t->point[point].sleep_ma * gap;
  if (mode != RQDKM_ARAS_SLEEP) {
    changes += t->switch_us[point][t->safe] + t->switch_us[t->safe][point];
    found = mode == RQDKM_ARAS_DOZE ? t->point[t->safe].sleep_ma * gap : t->stop_ma * gap + t->wake_ma * t->wake_us;
  }
  return t->volts * (found + t->switch_ma * changes) + a->wake.expected * a->nanojoules[point];
}

/* Whether frames and rest are still served in time. */
static bool quick(const rqdkm_aras *a, uint32_t point, rqdkm_aras_idle_mode mode, bool surprised, float spare) {
  const rqdkm_aras_table *t = a->table;
  if (point == 0 && mode == RQDKM_ARAS_SLEEP) return true;
  const float wake = latency(a, point, mode);
  /* at the fastest clock the rest takes what it takes */
  const float rest = point == 0 ? 0.0f : rqdkm_predictor_upper(&a->wake) / rqdkm_aras_mhz(a, point);
  /* of a wake-up that is known beforehand, stop mode's part is over by then */
  const float back = (surprised ? wake : 0.0f) + t->switch_us[point][0];
  const bool keeps_up = rqdkm_aras_mhz(a, point) * kKeepUp >= a->expected_rate;
  return (back == 0.0f || back <= spare) && wake + rest <= (float)t->rest_us && keeps_up;
}

static rqdkm_aras_idle_mode wait(rqdkm_aras *a, uint64_t until_us, uint32_t flags) {
  const rqdkm_aras_table *t = a->table;
  const rqdkm_aras_port *port = a->port;
  const float left = rqdkm_aras_span(a->now_us, until_us);
  if (left < kShort_us) return RQDKM_ARAS_RUN_ON;
  const float gap = a->gap_us > 0.0f && a->gap_us < left ? a->gap_us : left;
  const float spare = a->relative_us - (float)t->guard_us - (float)t->worst_cycles / rqdkm_aras_granted(a);
  const rqdkm_aras_idle_mode deepest = flags & RQDKM_ARAS_CAN_STOP ? RQDKM_ARAS_STOP : RQDKM_ARAS_DOZE;
  uint32_t point = 0;
  rqdkm_aras_idle_mode mode = RQDKM_ARAS_SLEEP;
  float least = energy(a, 0, RQDKM_ARAS_SLEEP, gap);
  for (uint32_t p = 0; p < (a->pressed ? 1u : t->points); p++) {
    for (rqdkm_aras_idle_mode m = RQDKM_ARAS_SLEEP; m <= deepest; m++) {
      if (!quick(a, p, m, (flags & RQDKM_ARAS_SURPRISED) != 0, spare)) continue;
      const float found = energy(a, p, m, gap);
      if (found < least) {
        least = found;
        point = p;
        mode = m;
      }
    }
  }
  a->decisions++;
  rqdkm_aras_set_point(a, point);
  const rqdkm_aras_status status = mode == RQDKM_ARAS_SLEEP  ? port->sleep(port->context, until_us)
                                   : mode == RQDKM_ARAS_DOZE ? port->doze(port->context, until_us)
                                                             : port->stop(port->context, until_us);
  if (status == RQDKM_ARAS_REFUSED) rqdkm_aras_count(a, RQDKM_ARAS_FAULT_REQUEST);
  return status == RQDKM_ARAS_NO_TIMER ? RQDKM_ARAS_SLEEP : mode;
}

rqdkm_aras_idle_mode rqdkm_aras_idle(rqdkm_aras *a, uint64_t until_us, uint32_t flags) {
  if (!rqdkm_aras_enter(a)) return RQDKM_ARAS_RUN_ON;
  rqdkm_aras_account(a, true);
  a->can_stop = (flags & RQDKM_ARAS_CAN_STOP) != 0;
  const uint64_t before = a->now_us;
  uint32_t rest = 0;
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) rest -= a->rest_seen[l];
  a->held = 0;
  a->waiting = true;
  const rqdkm_aras_idle_mode mode = wait(a, until_us, flags);
  a->waiting = false;
  (void)a->port->set_priority(a->port->context, 0); /* a tick may have raised it */
  rqdkm_aras_account(a, false);
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) rest += a->rest_seen[l];
  if (mode != RQDKM_ARAS_RUN_ON) {
    const float span = rqdkm_aras_span(before, a->now_us);
    a->pressed = a->held >= RQDKM_ARAS_HELD;
    a->gap_us += (a->gap_us > 0.0f ? kGain : 1.0f) * (span - a->gap_us);
    if (a->idled) a->frame_share -= kGain * a->frame_share; /* the one before did not end with a frame */
    a->idled = true;
    rqdkm_predictor_update(&a->wake, (float)rest);
  }
  a->idles[mode]++;
  rqdkm_aras_leave(a);
  return mode;
}
