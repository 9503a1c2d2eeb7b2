/* SPDX-License-Identifier: Apache-2.0 */
/* How to wait: at which clock, asleep, dozing or stopped.
 *
 * Each costs an amount once and a current for as long as it lasts, so that the mean length of idle times is all that
 * has to be known about them. Counted are the change of clock now, the waiting, the way back to the clock, what the
 * rest computes when it wakes the core, and, where a frame may come next, the change to the clock of frames. A way of
 * waiting from which a frame in its worst case could not be finished any more is not taken. */
#include "aras/internal.h"

enum { kShort_us = 20, kUses = 16, kAtOnce = 2000, kModes = RQDKM_ARAS_STOP };
static const float kGain = 0.1f, kKeepUp = 0.95f;

/* What does not change: by point and mode, mode - 1 as index. */
void rqdkm_aras_prepare_idle(rqdkm_aras *a) {
  const rqdkm_aras_table *t = a->table;
  for (uint32_t p = 0; p < t->points; p++) {
    const float back = t->switch_us[t->safe][p];
    const float there_and_back = t->volts * t->switch_ma * (back + t->switch_us[p][t->safe]);
    a->way[p][0] = (rqdkm_aras_way){0.0f, 0.0f, t->volts * t->point[p].sleep_ma};
    a->way[p][1] = (rqdkm_aras_way){back, there_and_back, t->volts * t->point[t->safe].sleep_ma};
    a->way[p][2] =
        (rqdkm_aras_way){t->wake_us + back, there_and_back + t->volts * t->wake_ma * t->wake_us, t->volts * t->stop_ma};
  }
}

/* Chooses a->idle_point and a->idle_mode for idle times of `gap` microseconds. */
static void choose(rqdkm_aras *a, float gap, uint32_t flags) {
  const rqdkm_aras_table *t = a->table;
  /* nothing is known of deadlines before the first frame: it may be late by what is kept in hand of all of them */
  const float guard = (float)t->guard_us, worst = rqdkm_aras_longest_us(a, (float)t->worst_cycles);
  const float spare = a->relative_us > 0.0f ? a->relative_us - guard - worst : guard;
  const float change = t->volts * t->switch_ma, rest = rqdkm_predictor_upper(&a->wake);
  const uint32_t modes = flags & RQDKM_ARAS_CAN_STOP ? kModes : kModes - 1u;
  /* a backlog is worked off where that takes least; at the fastest clock, should it last */
  const bool pressed = a->pressed;
  const uint32_t points = rqdkm_aras_crowded(a, kLongBehind) ? 1u : pressed ? a->efficient + 1u : t->points;
  float least = -1.0f;
  for (uint32_t p = 0; p < points; p++) {
    /* the rest's own load has to be served; at the fastest clock it takes what it takes, elsewhere little longer */
    if (p != 0 && !pressed && a->mhz[p] * kKeepUp < a->expected_rate) continue;
    const float served = rest / a->mhz[p] - rest / a->mhz[0], to_fastest = t->switch_us[p][0];
    const float common = change * (t->switch_us[a->point][p] + t->switch_us[p][a->efficient] * a->frame_share) +
                         a->wake.expected * a->nanojoules[p];
    for (uint32_t m = 0; m < modes; m++) {
      const rqdkm_aras_way *way = &a->way[p][m];
      /* of a wake-up that is known beforehand, the way back is over by then */
      const float late = (flags & RQDKM_ARAS_SURPRISED ? way->back_us : 0.0f) + to_fastest;
      const bool quick = (late == 0.0f || late <= spare) && way->back_us + served <= (float)t->rest_us;
      const float found = common + way->once + way->power * gap;
      if ((p == 0 && m == 0) || (quick && found < least)) {
        least = found;
        a->idle_point = p;
        a->idle_mode = (rqdkm_aras_idle_mode)(m + 1u);
      }
    }
  }
  a->decisions++;
}

static rqdkm_aras_idle_mode wait(rqdkm_aras *a, uint64_t until_us, uint32_t flags) {
  const rqdkm_aras_port *port = a->port;
  const float left = rqdkm_aras_span(a->now_us, until_us);
  if (left < kShort_us) return RQDKM_ARAS_RUN_ON;
  rqdkm_aras_close_idle(a);
  const float gap = a->gap_us > 0.0f && a->gap_us < left ? a->gap_us : left;
  /* a choice holds for a while; one for a time shorter than usual only for that */
  const bool shorter = gap < 0.5f * a->gap_us;
  if (a->idle_uses == 0 || a->idle_flags != flags || a->pressed || shorter) {
    choose(a, gap, flags);
    a->idle_uses = shorter ? 1u : kUses;
    a->idle_flags = flags;
  }
  a->idle_uses--;
  rqdkm_aras_set_point(a, a->idle_point);
  const rqdkm_aras_idle_mode mode = a->idle_mode;
  const rqdkm_aras_status status = mode == RQDKM_ARAS_SLEEP  ? port->sleep(port->context, until_us)
                                   : mode == RQDKM_ARAS_DOZE ? port->doze(port->context, until_us)
                                                             : port->stop(port->context, until_us);
  if (status == RQDKM_ARAS_REFUSED) rqdkm_aras_count(a, RQDKM_ARAS_FAULT_REQUEST);
  return status == RQDKM_ARAS_NO_TIMER ? RQDKM_ARAS_SLEEP : mode;
}

/* A wait and what the rest did behind it, up to the next one or to a frame: handlers of a timer that the caller arms
   again after stop mode run when rqdkm_aras_idle has returned. */
void rqdkm_aras_close_idle(rqdkm_aras *a) {
  if (a->idled) rqdkm_predictor_update(&a->wake, (float)a->idle_rest);
  a->idle_rest = 0;
}

rqdkm_aras_idle_mode rqdkm_aras_idle(rqdkm_aras *a, uint64_t until_us, uint32_t flags) {
  if (!rqdkm_aras_enter(a)) return RQDKM_ARAS_RUN_ON;
  /* called again at once, there is nothing new */
  if (!a->idled || a->port->cycles(a->port->context) - a->cycles > kAtOnce) rqdkm_aras_account(a, true);
  a->can_stop = (flags & RQDKM_ARAS_CAN_STOP) != 0;
  const uint64_t before = a->now_us;
  if (a->raised) { /* by a tick, and no frame had come */
    a->pressed = true;
    a->raised = false;
    a->held = 0;
    (void)a->port->set_priority(a->port->context, 0);
  }
  const rqdkm_aras_idle_mode mode = wait(a, until_us, flags);
  rqdkm_aras_account(a, false);
  if (mode != RQDKM_ARAS_RUN_ON) {
    const float span = rqdkm_aras_span(before, a->now_us);
    if (a->pressed && !a->raised) a->idle_uses = 0; /* what was chosen before the rest grew is void */
    if (!a->raised) a->pressed = false;
    a->gap_us += (a->gap_us > 0.0f ? kGain : 1.0f) * (span - a->gap_us);
    if (a->idled) a->frame_share -= kGain * a->frame_share; /* the one before did not end with a frame */
    a->idled = true;
  }
  a->idles[mode]++;
  a->entered = false; /* and a priority that was raised stays so until the caller has looked whether a frame has come */
  return mode;
}
