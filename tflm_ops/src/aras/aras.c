/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/aras.h"

#include "aras/internal.h"

static bool within(float x, float low, float high) { return x >= low && x <= high; } /* false for NaN */

static bool good_point(const rqdkm_aras_point *p) {
  return p->hz >= 1000000u && p->hz <= 1000000000u && within(p->factor, 0.5f, 2.0f) && within(p->run_ma, 1e-3f, 1e4f) &&
         within(p->sleep_ma, 1e-3f, 1e4f);
}

static bool good(const rqdkm_aras_table *t) {
  if (t == 0 || t->version != RQDKM_ARAS_TABLE_VERSION || t->points < 1 || t->points > RQDKM_ARAS_POINTS ||
      t->safe >= t->points)
    return false;
  for (uint32_t p = 0; p < t->points; p++)
    if (!good_point(&t->point[p]) || t->point[p].hz > t->point[0].hz) return false;
  return within(t->switch_ma, 0.0f, 1e4f) && within(t->volts, 0.1f, 10.0f) && within(t->stop_ma, 0.0f, 1e4f) &&
         within(t->wake_us, 0.0f, 1e6f) && within(t->wake_ma, 0.0f, 1e4f) && t->worst_cycles >= 1 && t->tick_us >= 1 &&
         t->tick_us <= 1000000u && t->guard_us <= 1000000u && t->window_us >= 1000u && t->window_us <= 10000000u &&
         within(t->share, 0.0f, 0.9f) && within(t->hysteresis, 0.0f, 0.5f) && within(t->raise_cost, 0.0f, 1.0f) &&
         within(t->quantile, 0.5f, 0.999f);
}

int32_t rqdkm_aras_init(rqdkm_aras *a, const rqdkm_aras_table *t, const rqdkm_aras_port *port) {
  *a = (rqdkm_aras){.table = t, .port = port};
  if (!good(t)) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_TABLE);
    return RQDKM_ERROR_ARGUMENT;
  }
  for (uint32_t p = 0; p < t->points; p++) {
    a->mhz[p] = (float)t->point[p].hz * 1e-6f;
    a->nanojoules[p] = t->volts * t->point[p].run_ma / a->mhz[p];
    if (a->nanojoules[p] * t->point[p].factor < a->nanojoules[a->efficient] * t->point[a->efficient].factor)
      a->efficient = p;
  }
  a->alone_us = 1.0f / rqdkm_aras_alone(a);
  a->granted_part = t->share / (1.0f - t->share);
  rqdkm_aras_prepare_idle(a);
  rqdkm_predictor_init(&a->demand, t->frame_kind, t->quantile);
  rqdkm_predictor_init(&a->wake, RQDKM_PREDICT_HOLT, t->quantile);
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) rqdkm_predictor_init(&a->rest[l], t->rest_kind, t->quantile);
  a->now_us = a->window_us = a->frame_us = port->now_us(port->context);
  a->cycles = port->cycles(port->context);
  const uint32_t point = port->clock(port->context);
  a->point = point < t->points ? point : t->safe;
  a->first_point = a->point;
  a->frame_share = 1.0f;
  a->usable = true;
  return RQDKM_OK;
}

bool rqdkm_aras_enter(rqdkm_aras *a) {
  if (!a->usable) return false;
  if (a->entered) {
    a->dropped++;
    return false;
  }
  a->entered = true;
  return true;
}

void rqdkm_aras_leave(rqdkm_aras *a) {
  a->entered = false;
  if (!a->raised) return;
  /* a tick has raised it since the level was set */
  a->raised = false;
  a->held = 0;
  (void)a->port->set_priority(a->port->context, a->level);
}

/* What a tick has raised becomes the level that the next decision starts from. */
static void lower(rqdkm_aras *a) {
  if (a->raised) a->level = RQDKM_ARAS_LEVELS - 1u;
  a->raised = false;
  a->held = 0;
}

void rqdkm_aras_begin(rqdkm_aras *a, uint64_t deadline_us, uint32_t cycles) {
  if (!rqdkm_aras_enter(a)) return;
  rqdkm_aras_account(a, true);
  rqdkm_aras_close_frame(a);
  rqdkm_aras_close_idle(a);
  const rqdkm_aras_table *t = a->table;
  if ((cycles != 0) != a->announced) { /* demand is relative to what is announced, or to the worst case */
    a->announced = cycles != 0;
    rqdkm_aras_prepare_idle(a);
    rqdkm_predictor_init(&a->demand, t->frame_kind, t->quantile);
  }
  const float worst = (float)t->worst_cycles;
  const bool known = a->demand.count != 0;
  a->base = cycles != 0 ? (float)cycles : worst;
  a->expected = known ? a->base * a->demand.expected : a->base;
  a->upper = known ? a->base * rqdkm_predictor_upper(&a->demand) : a->base;
  a->upper = a->upper < worst ? a->upper : worst;
  a->expected = a->expected < a->upper ? a->expected : a->upper;
  a->worst = worst;
  if (cycles != 0 && known && 1.25f * a->upper < worst) a->worst = 1.25f * a->upper;
  a->done = 0.0f;
  a->overrun = false;
  const uint32_t longest = a->rest_longest;                                  /* handlers write it, too */
  if (a->rest_longest == longest) a->rest_longest = longest - longest / 16u; /* what was long once is forgotten */
  a->begun_us = a->now_us;
  a->deadline_us = deadline_us;
  a->relative_us = rqdkm_aras_span(a->now_us, deadline_us);
  if (a->idled) a->frame_share += 0.1f * (1.0f - a->frame_share);
  a->idled = false;
  a->busy = true;
  lower(a);
  rqdkm_aras_decide(a, true);
  a->first_point = a->point;
  rqdkm_aras_leave(a);
}

/* Who waits, or is at work here, gets on if the rest does not let it. */
static void hold(rqdkm_aras *a) {
  a->held = a->rest_depth != 0 ? a->held + 1u : 0u;
  if (a->held >= RQDKM_ARAS_HELD && a->usable)
    a->raised = a->port->set_priority(a->port->context, RQDKM_ARAS_LEVELS - 1u) == RQDKM_ARAS_OK || a->raised;
}

void rqdkm_aras_tick(rqdkm_aras *a) {
  if (a->busy && !a->entered) {
    /* cycles tell as well as time that it is too early, for less; a counter that stands still is noticed by the ticks
     */
    const uint32_t counter = a->port->cycles(a->port->context);
    const bool early = counter - a->looked_cycles < a->check_cycles;
    if (early && a->check_ticks-- > 0) return;
    rqdkm_aras_check(a, counter, early);
    return;
  }
  hold(a);
}

bool rqdkm_aras_end(rqdkm_aras *a) {
  if (!rqdkm_aras_enter(a)) return false;
  rqdkm_aras_account(a, true);
  const bool in_time = a->now_us <= a->deadline_us;
  if (a->busy) {
    if (!a->stuck) rqdkm_predictor_update(&a->demand, a->done / a->base);
    const float late = rqdkm_aras_span(a->deadline_us, a->now_us), early = rqdkm_aras_span(a->now_us, a->deadline_us);
    const float slack = (early - late) / (a->relative_us > 1.0f ? a->relative_us : 1.0f);
    a->slack = slack > -1.0f ? (slack < 1.0f ? slack : 1.0f) : -1.0f;
    a->frames++;
    a->missed += in_time ? 0u : 1u;
  }
  a->busy = false;
  lower(a);
  rqdkm_aras_set_level(a, 0);
  rqdkm_aras_leave(a);
  return in_time;
}

rqdkm_aras_status rqdkm_aras_request(rqdkm_aras *a, uint32_t point) {
  if (!a->usable || point >= a->table->points) {
    rqdkm_aras_count(a, RQDKM_ARAS_FAULT_REQUEST);
    return RQDKM_ARAS_REFUSED;
  }
  if (!rqdkm_aras_enter(a)) return RQDKM_ARAS_REFUSED;
  rqdkm_aras_account(a, true);
  rqdkm_aras_set_point(a, point);
  rqdkm_aras_leave(a);
  return a->point == point ? RQDKM_ARAS_OK : RQDKM_ARAS_FALLBACK;
}

void rqdkm_aras_morph_state(const rqdkm_aras *a, rqdkm_morph_state *state, uint32_t cycles, uint32_t limit_us) {
  const bool failed = !a->usable || a->clock_failures != 0;
  const uint32_t point = failed && a->usable ? a->table->safe : 0;
  const float hz = a->usable ? (float)a->table->point[point].hz : 16e6f;
  const float load = a->usable ? a->told_load * (float)a->table->point[0].hz / hz : 0.0f;
  const float limit = limit_us != 0 ? (float)limit_us : 1.0f;
  const float free = load < 0.95f ? 1.0f - load : 0.05f;
  state->load = load < 1.0f ? load : 1.0f;
  state->memory = a->memory;
  state->clock = hz;
  state->slack = rqdkm_morph_slack(limit, (float)cycles / (hz * 1e-6f * free));
}
