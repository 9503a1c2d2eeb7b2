/* SPDX-License-Identifier: Apache-2.0 */
/* Which clock and which priority for what is left of a frame.
 *
 * A pair may be taken if it satisfies two conditions: what the frame is expected to need at most (the predictor's
 * upper bound) is done in time; and should it need its worst case instead, the fastest clock at the highest priority
 * can still finish it, from the next tick on. Of these pairs the one with the least expected energy up to the deadline
 * is taken, idle time and the change itself included. The second condition is why no deadline is missed on a
 * prediction that was wrong, as long as worst case and share are what the table says. */
#include "aras/internal.h"

enum {
  kRetry_us = 1000, /* 2 ms to 16 s */
  kMostFailures = 14,
  kGlances_us = 20000000, /* without a decision; the cycle counter wraps after 25 s at 168 MHz */
};
static const float kBorrow = 0.5f;    /* of a window: so much the reserve takes for granted of what may be borrowed */
static const float kHindered = 0.15f; /* of the clock: so much more than thought may the rest take */

typedef struct {
  uint32_t point, level;
  float energy; /* nanojoules: volts x mA x microseconds; < 0: none */
} choice;

/* What a decision is made from; microseconds, and cycles at point 0. */
typedef struct {
  float left;     /* until the deadline, less the guard */
  float reserve;  /* of it, what the worst case leaves at the fastest clock */
  float need;     /* upper bound of what is to be done yet */
  float expected; /* of it, what is likely */
  float idle_ma;
} situation;

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
  if (point != a->table->safe && a->clock_failures != 0 && a->now_us < a->retry_us) return;
  bool failed = false;
  a->glance_cycles = 0;
  /* handlers that came in the middle of a change would run at the slow clock of its way, and a burst of them hold it up
     for as long as it lasts */
  const bool hold = a->level < RQDKM_ARAS_LEVELS - 1u;
  if (hold) (void)a->port->set_priority(a->port->context, RQDKM_ARAS_LEVELS - 1u);
  const rqdkm_aras_status status = a->port->set_clock(a->port->context, point);
  if (hold && !a->raised) (void)a->port->set_priority(a->port->context, a->level);
  a->switches++;
  const uint32_t reached = a->port->clock(a->port->context);
  if (status == RQDKM_ARAS_REFUSED) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_REQUEST);
  } else if (status != RQDKM_ARAS_OK || reached != point) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_CLOCK);
    a->clock_failures += a->clock_failures < kMostFailures;
    failed = true;
  } else if (point != a->table->safe) {
    a->clock_failures = 0;
  }
  a->point = reached < a->table->points ? reached : a->table->safe;
  const uint64_t now = a->port->now_us(a->port->context);
  if (failed) a->retry_us = now + ((uint64_t)kRetry_us << a->clock_failures); /* what is dead costs ever less time */
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

/* How long `point` may be kept although nothing of the frame gets done meanwhile, negative if not at all. */
static float kept_for(const rqdkm_aras *a, const situation *s, uint32_t point) {
  return s->reserve - a->table->switch_us[a->point][point] - a->table->switch_us[point][0];
}

/* The lowest level at which the frame is expected to be done in time, or RQDKM_ARAS_LEVELS. Without a reserve only the
   highest level at the fastest point is left. */
static uint32_t level_for(const rqdkm_aras *a, const situation *s, uint32_t point) {
  if (kept_for(a, s, point) < (float)a->table->tick_us) return point == 0 ? RQDKM_ARAS_LEVELS - 1u : RQDKM_ARAS_LEVELS;
  const float mhz = a->mhz[point], cycles = s->need * a->table->point[point].factor;
  const float time = s->left - a->table->switch_us[a->point][point];
  for (uint32_t level = 0; level < RQDKM_ARAS_LEVELS; level++)
    if (cycles <= time * (mhz - taken(a, level, mhz))) return level;
  return RQDKM_ARAS_LEVELS;
}

/* At the lowest level; the others cost raise_cost of it each. The rest has to be computed anyway: while the frame is,
   at its point, and what is left of it up to the deadline at the point that takes least. */
static float energy(const rqdkm_aras *a, const situation *s, uint32_t point) {
  const rqdkm_aras_table *t = a->table;
  const float mhz = a->mhz[point], most = 0.95f * mhz, cycles = s->expected * t->point[point].factor;
  const float rest = a->expected_rate < most ? a->expected_rate : most, left = s->left > 0.0f ? s->left : 0.0f;
  float busy = cycles / (mhz - rest);
  busy = busy < left ? busy : left;
  const float running = a->nanojoules[point] * (cycles + rest * busy);
  const float behind = a->nanojoules[a->efficient] * (a->expected_rate * left - rest * busy);
  const float change = t->switch_us[a->point][point] * t->switch_ma;
  return running + behind + t->volts * (change + s->idle_ma * (left - busy));
}

/* Hysteresis. From frame to frame, what keeping a point wastes adds up: neither does noise make it swing, nor does a
   small loss last for ever. Behind a change it begins in debt, for what is measured depends on the point, too: two
   points of which each looks better from the other must not take turns. */
static choice settled(rqdkm_aras *a, choice best, choice kept, bool begins) {
  static const float kForced = 0.25f, kChanged = 0.2f;
  if (kept.energy < 0.0f) {
    if (begins) a->wasted = -kForced;
    return best;
  }
  if (best.point == kept.point) {
    if (begins && a->wasted > 0.0f) a->wasted = 0.0f;
    return best;
  }
  const float wasted = (begins ? a->wasted : 0.0f) + (kept.energy > 0.0f ? 1.0f - best.energy / kept.energy : 1.0f);
  const bool keep = wasted < a->table->hysteresis;
  if (begins) a->wasted = keep ? wasted : -kChanged;
  return keep ? kept : best;
}

/* The longest that cycles of a frame may take at the fastest point: alone, and with the rest's share beyond what may be
   borrowed of it; or they are so few that all they wait for is the handler that is at work. */
float rqdkm_aras_longest_us(const rqdkm_aras *a, float cycles) {
  const rqdkm_aras_table *t = a->table;
  const float window = (float)t->window_us, borrowed = kBorrow * window - a->masked_us;
  const float alone = cycles * a->alone_us, lent = alone - (borrowed > 0.0f ? borrowed : 0.0f);
  const float share = lent > 0.0f ? lent * a->granted_part : 0.0f;
  const float longest = (float)a->rest_longest * a->alone_us, handler = longest < window ? longest : window;
  return alone + (share > handler ? share : handler);
}

static situation look(rqdkm_aras *a) {
  const rqdkm_aras_table *t = a->table;
  if (a->done > a->worst) {
    if (!a->overrun) rqdkm_aras_count(a, RQDKM_ARAS_FAULT_OVERRUN);
    a->overrun = true;
    a->worst = a->upper = 1.25f * a->done; /* nobody knows */
  }
  if (a->done > a->upper) a->upper = a->worst;
  situation s;
  s.left = a->deadline_us >= a->now_us ? rqdkm_aras_span(a->now_us, a->deadline_us) - (float)t->guard_us
                                       : -rqdkm_aras_span(a->deadline_us, a->now_us);
  s.reserve = s.left - rqdkm_aras_longest_us(a, a->worst - a->done);
  s.need = a->upper - a->done;
  s.expected = a->expected > a->done ? a->expected - a->done : 0.02f * a->expected;
  s.idle_ma = a->can_stop ? t->stop_ma : t->point[t->safe].sleep_ma;
  return s;
}

/* What would be owed to the rest at the end of the frame, were it held back until then at the fastest point, above the
   most that may be. */
static float excess(const rqdkm_aras *a) {
  const float rate = a->mhz[0] - a->rate[RQDKM_ARAS_LEVELS - 1u], least = 0.05f * a->mhz[0];
  return a->masked_us + (a->upper - a->done) / (rate > least ? rate : least) - rqdkm_aras_most_masked(a);
}

/* What a microsecond in which nothing of the frame gets done takes from its reserve. At a raised level the rest is owed
   more by it, which counts from where its share becomes what the frame has to wait for: see rqdkm_aras_longest_us(). */
static float passing(const rqdkm_aras *a, float window) {
  const float borrowed = kBorrow * (float)a->table->window_us - a->masked_us - window;
  const float lent = (a->worst - a->done) * a->alone_us - (borrowed > 0.0f ? borrowed : 0.0f);
  const bool owed = a->level != 0 && lent * a->granted_part > (float)a->rest_longest * a->alone_us;
  return owed ? 1.0f + a->granted_part : 1.0f;
}

/* Looks before the window ends may be glances, as long as the reserve lasts: what was left of it at the decision, less
   the time since, and what the frame has got done adds to it. */
static void set_glance(rqdkm_aras *a, float until, float reserve) {
  a->glance_cycles = 0;
  if (a->make_up || a->stuck || reserve < until || a->now_us - a->decided_us > kGlances_us) return;
  const rqdkm_aras_table *t = a->table;
  const float whole = (float)t->window_us, window = whole - rqdkm_aras_span(a->window_us, a->now_us);
  /* a raised level lasts for as long as may be owed to the rest */
  if (a->level != 0 && t->share > 0.0f && rqdkm_aras_most_masked(a) - a->masked_us < window) return;
  const float mhz = a->mhz[a->point], factor = t->point[a->point].factor;
  /* what a cycle of the frame is worth at least, whatever gets done in a window: see rqdkm_aras_longest_us() */
  const float least = -0.25f * (1.0f - t->share) * whole;
  const float lent = (a->worst - a->done) * a->alone_us - 1.5f * whole - (kBorrow * whole - least);
  const bool shared = lent * a->granted_part > (float)a->rest_longest * a->alone_us;
  const float worth = shared ? a->alone_us * (1.0f + a->granted_part) : a->alone_us;
  const float since = rqdkm_aras_span(a->decided_us, a->now_us), gained = (a->done - a->decided_done) * worth;
  const float each = passing(a, window);
  a->glance_cycles = rqdkm_aras_whole(window * mhz); /* a change may have outlasted it */
  a->glance_rest = taken(a, a->level, mhz) / mhz + kHindered;
  a->glance_most = rqdkm_aras_whole((a->upper - a->decided_done) * factor);
  a->glance_spare = reserve + (since - until) * each - gained;
  a->glance_time = each / mhz;
  a->glance_gain = worth / factor;
  a->glance_longest = a->rest_longest;
}

/* When to look again: before the reserve is used up, three times in a window, and when the rest has to be given its
   share. At the fastest clock and the highest level there is nothing to hurry for, and not before there can be a
   reserve again. */
static void set_check(rqdkm_aras *a, float reserve) {
  const rqdkm_aras_table *t = a->table;
  const float tick = (float)t->tick_us;
  const bool last = a->point == 0 && a->level == RQDKM_ARAS_LEVELS - 1u;
  const float window = (float)t->window_us, granted = rqdkm_aras_granted(a);
  float until = 0.3f * window;
  if (last) {
    const float lacks = -reserve * granted / (a->mhz[0] - granted);
    until = lacks < until ? until : lacks < window ? lacks : window;
  } else {
    /* at a raised level it is used up sooner, by less than what a frame without one may borrow beyond kBorrow */
    until = reserve < until ? reserve : until;
  }
  if (a->level > 0 && t->share > 0.0f) {
    const float budget = rqdkm_aras_most_masked(a) - a->masked_us;
    until = budget < until ? budget : until;
  } else if (a->make_up) {
    const float owed = a->masked_us - rqdkm_aras_repaid(a), end = excess(a);
    const float rest = (end < owed ? end : owed) * a->granted_part;
    until = rest < until ? rest : until;
  }
  if (a->late && a->make_up) until = tick;
  until = until > tick ? until : tick;
  a->looked_cycles = a->cycles;
  a->check_cycles = rqdkm_aras_whole((until - 0.5f * tick) * a->mhz[a->point]); /* the tick that is nearest to it */
  a->check_ticks = a->glance_ticks = (rqdkm_aras_whole(until) + t->tick_us / 2u) / t->tick_us;
  set_glance(a, until, reserve);
}

static void decide(rqdkm_aras *a, const situation *s, bool begins) {
  /* what the last frame began with, not what it ended with: a frame that had to hurry at its end does not make the next
     one begin in a hurry, which would end at leisure, and so on */
  const uint32_t kept_point = begins ? a->first_point : a->point;
  a->decisions++;
  const bool late = s->reserve < (float)a->table->tick_us; /* then level_for() leaves the fastest point only */
  a->late = late;
  a->make_up = a->make_up && excess(a) > 0.0f; /* else what is left of the frame may be borrowed */
  choice best = {.energy = -1.0f}, kept = {.energy = -1.0f};
  const uint32_t points = rqdkm_aras_crowded(a, kLongBehind) ? 1u : a->table->points;
  for (uint32_t point = 0; point < points && !a->stuck && !late; point++) {
    float found = energy(a, s, point);
    if (best.energy >= 0.0f && found >= best.energy && point != kept_point) continue;
    uint32_t level = level_for(a, s, point);
    if (level == RQDKM_ARAS_LEVELS) continue;
    if (a->make_up) level = 0; /* for a moment, which taken() knows of at every level */
    found *= 1.0f + a->table->raise_cost * (float)level;
    if (best.energy < 0.0f || found < best.energy) best = (choice){point, level, found};
    if (point == kept_point) kept = (choice){point, level, found};
  }
  /* a handler that is at work goes on at any level; at the highest one no other begins behind it, before it is seen
     how much that one was */
  const bool give = a->make_up && a->rest_depth == 0;
  if (best.energy < 0.0f) best = (choice){0, give ? 0u : RQDKM_ARAS_LEVELS - 1u, 0.0f};
  if (late && !a->stuck && kept_point == 0) kept = best;
  best = settled(a, best, kept, begins);
  rqdkm_aras_set_point(a, best.point);
  rqdkm_aras_set_level(a, best.level);
  a->decided_rate = a->rate[0];
  a->decided_make_up = a->make_up;
  a->decided_us = a->now_us;
  a->decided_done = a->done;
  a->decided_cycles = a->cycles;
  a->decided_rest = rqdkm_aras_whole(a->rest_begun);
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) a->decided_rest += a->rest_seen[l];
  const float reserve = kept_for(a, s, a->point) - (float)a->table->tick_us;
  a->safe_us = a->now_us + rqdkm_aras_whole(reserve);
  set_check(a, reserve);
}

void rqdkm_aras_decide(rqdkm_aras *a, bool begins) {
  const situation s = look(a);
  decide(a, &s, begins);
}

/* The rest takes more than was thought when the decision was made: what is seen now holds until a window closes
   that says more. */
static bool hindered(rqdkm_aras *a) {
  const float span = rqdkm_aras_span(a->decided_us, a->now_us), mhz = a->mhz[a->point];
  const float progress = (a->done - a->decided_done) * a->table->point[a->point].factor;
  const float seen = span > 0.0f ? mhz - progress / span : 0.0f;
  if (seen <= taken(a, a->level, mhz) + kHindered * mhz) return false;
  for (uint32_t l = 0; l <= a->level; l++) a->rate[l] = a->rate[l] > seen ? a->rate[l] : seen;
  return true;
}

/* What still_good() would ask, by the counters alone: since the decision the core has run at one clock. */
static bool glance(rqdkm_aras *a, uint32_t counter) {
  const uint32_t passed = counter - a->decided_cycles;
  uint32_t rest = a->rest_depth != 0 ? counter - a->rest_started : 0u;
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) rest += a->rest_cycles[l];
  rest -= a->decided_rest;
  const uint32_t own = passed - rest;
  const float all = (float)passed;
  if (rest > passed || own > a->glance_most || a->rest_longest > a->glance_longest ||
      (float)rest > a->glance_rest * all || a->glance_spare + (float)own * a->glance_gain < all * a->glance_time ||
      a->port->clock(a->port->context) != a->point)
    return false;
  a->looked_cycles = counter;
  a->check_ticks = a->glance_ticks;
  return true;
}

/* Another look without a decision, if none is due: the rest is as it was, and the reserve lasts. What the frame has got
   done renews it; but elsewhere than at the point that takes least, that may be worth a decision. */
static bool still_good(rqdkm_aras *a, const situation *s) {
  const float changed = a->rate[0] - a->decided_rate, band = 0.05f * a->mhz[0], tick = (float)a->table->tick_us;
  const bool lower = a->level != 0 && a->window_us > a->decided_us; /* it may do now, by what the window has shown */
  if (lower || a->decided_make_up || a->make_up || a->stuck || changed > band || changed < -band || hindered(a))
    return false;
  const float reserve = kept_for(a, s, a->point) - tick;
  if (reserve < tick) return false;
  if (a->now_us >= a->safe_us) {
    if (a->point != a->efficient || level_for(a, s, a->point) != a->level) return false;
    a->safe_us = a->now_us + rqdkm_aras_whole(reserve);
  }
  set_check(a, reserve);
  return true;
}

void rqdkm_aras_check(rqdkm_aras *a, uint32_t counter, bool early) {
  if (!early && counter - a->cycles < a->glance_cycles && glance(a, counter)) return;
  if (!rqdkm_aras_enter(a)) return;
  rqdkm_aras_account(a, true);
  const bool beyond = a->done > a->upper; /* what was expected at most */
  const situation s = look(a);
  if (beyond || !still_good(a, &s)) decide(a, &s, false);
  rqdkm_aras_leave(a);
}
