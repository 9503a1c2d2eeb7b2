/* SPDX-License-Identifier: Apache-2.0 */
/* Which clock and which priority for what is left of a frame.
 *
 * A pair may be taken if it satisfies two conditions: what the frame is expected to need at most (the predictor's
 * upper bound) is done in time; and should it need its worst case instead, the fastest clock at the highest priority
 * can still finish it, from the next tick on. Of these pairs the one with the least expected energy up to the deadline
 * is taken, idle time and the change itself included. The second condition is why no deadline is missed on a
 * prediction that was wrong, as long as worst case and share are what the table says. */
#include "aras/internal.h"

typedef struct {
  uint32_t point, level;
  float energy; /* nanojoules: volts x mA x microseconds; < 0: none */
} choice;

void rqdkm_aras_set_level(rqdkm_aras *a, uint32_t level) {
  if (level == a->level) return;
  if (a->port->set_priority(a->port->context, level) != RQDKM_ARAS_OK) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_REQUEST);
    return;
  }
  a->level = level;
  a->window_level = level > a->window_level ? level : a->window_level;
}

void rqdkm_aras_set_point(rqdkm_aras *a, uint32_t point) {
  if (point == a->point) return;
  if (point != a->table->safe && a->clock_failures != 0 && (int32_t)(a->frames - a->retry_at) < 0) return;
  const rqdkm_aras_status status = a->port->set_clock(a->port->context, point);
  a->switches++;
  const uint32_t reached = a->port->clock(a->port->context);
  if (status == RQDKM_ARAS_REFUSED) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_REQUEST);
  } else if (status != RQDKM_ARAS_OK || reached != point) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_CLOCK);
    a->clock_failures += a->clock_failures < 8u;
    a->retry_at = a->frames + (1u << a->clock_failures); /* a dead crystal costs its waiting time ever more rarely */
  } else if (point != a->table->safe) {
    a->clock_failures = 0;
  }
  a->point = reached < a->table->points ? reached : a->table->safe;
  const uint64_t now = a->port->now_us(a->port->context);
  a->now_us = now > a->now_us ? now : a->now_us; /* cycles spent waiting are neither the frame's nor the rest's */
  a->cycles = a->port->cycles(a->port->context);
}

/* Cycles per microsecond that the rest may take from a frame: classes that the level does not mask, and of those that
   it does what they are granted. */
static float taken(const rqdkm_aras *a, uint32_t level, float mhz) {
  const float masked = a->rate[0] - a->rate[level], granted = a->table->share * mhz;
  const float rest = a->rate[level] + (masked < granted ? masked : granted), most = 0.95f * mhz;
  return rest < most ? rest : most;
}

static float energy(const rqdkm_aras *a, uint32_t point, uint32_t level, float left) {
  const rqdkm_aras_table *t = a->table;
  const float mhz = rqdkm_aras_mhz(a, point), most = 0.95f * mhz;
  const float rest = a->expected_rate < most ? a->expected_rate : most;
  const float remaining = a->expected > a->done ? a->expected - a->done : 0.02f * a->expected;
  const float busy = remaining * t->point[point].factor / (mhz - rest);
  const float idle_ma = a->can_stop ? t->stop_ma : t->point[t->safe].sleep_ma;
  const float idle = left > busy ? left - busy : 0.0f;
  const float change = t->switch_us[a->point][point] * t->switch_ma;
  return t->volts * (change + t->point[point].run_ma * busy + idle_ma * idle) * (1.0f + t->raise_cost * (float)level);
}

/* How long point may be kept although nothing of the frame gets done meanwhile, negative if not at all. */
static float reserve(const rqdkm_aras *a, uint32_t point, float left) {
  return left - a->table->switch_us[a->point][point] - a->table->switch_us[point][0] -
         (a->worst - a->done) / rqdkm_aras_granted(a);
}

/* The lowest level at which the frame is expected to be done in time, or RQDKM_ARAS_LEVELS. Without a reserve only the
   highest level at the fastest point is left. */
static uint32_t level_for(const rqdkm_aras *a, uint32_t point, float left, float need) {
  const float mhz = rqdkm_aras_mhz(a, point);
  const float time = left - a->table->switch_us[a->point][point], cycles = need * a->table->point[point].factor;
  const uint32_t levels = a->make_up ? 1u : RQDKM_ARAS_LEVELS;
  if (reserve(a, point, left) < (float)a->table->tick_us) return point == 0 ? levels - 1u : RQDKM_ARAS_LEVELS;
  for (uint32_t level = 0; level < levels; level++)
    if (cycles <= time * (mhz - taken(a, level, mhz))) return level;
  return RQDKM_ARAS_LEVELS;
}

/* Hysteresis. From frame to frame, what keeping a point wastes adds up: neither does noise make it swing, nor does a
   small loss last for ever. */
static choice settled(rqdkm_aras *a, choice best, choice kept, bool begins) {
  const bool same = kept.energy <= 0.0f || best.point == kept.point;
  const float wasted = same ? 0.0f : (begins ? a->wasted : 0.0f) + 1.0f - best.energy / kept.energy;
  const bool keep = !same && wasted < a->table->hysteresis;
  if (begins) a->wasted = keep ? wasted : 0.0f;
  return keep ? kept : best;
}

void rqdkm_aras_decide(rqdkm_aras *a, bool begins) {
  const rqdkm_aras_table *t = a->table;
  const float left = a->deadline_us >= a->now_us ? rqdkm_aras_span(a->now_us, a->deadline_us) - (float)t->guard_us
                                                 : -rqdkm_aras_span(a->deadline_us, a->now_us);
  /* what the last frame began with, not what it ended with: a frame that had to hurry at its end does not make the next
     one begin in a hurry, which would end at leisure, and so on */
  const uint32_t kept_point = begins ? a->first_point : a->point;
  a->decisions++;
  if (a->done > a->worst) {
    if (!a->overrun) rqdkm_aras_count(a, RQDKM_ARAS_FAULT_OVERRUN);
    a->overrun = true;
    a->worst = a->upper = 1.25f * a->done; /* nobody knows */
  }
  if (a->done > a->upper) a->upper = a->worst;
  const float need = a->upper - a->done;
  choice best = {.energy = -1.0f}, kept = {.energy = -1.0f};
  for (uint32_t point = 0; point < t->points && !a->stuck; point++) {
    const uint32_t level = level_for(a, point, left, need);
    if (level == RQDKM_ARAS_LEVELS) continue;
    const float found = energy(a, point, level, left);
    if (best.energy < 0.0f || found < best.energy) best = (choice){point, level, found};
    if (point == kept_point) kept = (choice){point, level, found};
  }
  if (best.energy < 0.0f) best = (choice){0, a->make_up ? 0u : RQDKM_ARAS_LEVELS - 1u, 0.0f};
  best = settled(a, best, kept, begins);
  rqdkm_aras_set_point(a, best.point);
  rqdkm_aras_set_level(a, best.level);

  /* nothing is lost before the reserve is used up, the window closes, or the rest has to be given its share */
  float until = (float)t->window_us;
  if (a->point != 0 || a->level != RQDKM_ARAS_LEVELS - 1u) {
    const float safe = reserve(a, a->point, left) - (float)t->tick_us;
    until = safe < until ? safe : until;
  }
  if (a->level > 0 && t->share > 0.0f) {
    const float budget = rqdkm_aras_most_masked(a) - a->masked_us;
    until = budget < until ? budget : until;
  } else if (a->make_up) {
    const float rest = (a->masked_us - 0.5f * rqdkm_aras_most_masked(a)) * t->share / (1.0f - t->share);
    until = rest < until ? rest : until;
  }
  a->check_us = a->now_us + (until > (float)t->tick_us ? (uint32_t)until : t->tick_us);
}
