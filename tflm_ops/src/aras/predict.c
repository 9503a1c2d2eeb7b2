/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "rqdkm/aras.h"

#define MOST 1e9f
#define LEAST_ERROR 1e-3f /* of the expected value: bounds of a constant series do not collapse to nothing */

static const float kLevelGain = 0.4f, kTrendGain = 0.2f, kDamping = 0.8f;   /* Holt, damped (Gardner and McKenzie) */
static const float kForget = 0.97f, kStart = 10.0f, kMostCovariance = 1e4f; /* RLS */
static const float kErrorGain = 0.1f, kWidthGain = 0.2f;

static float bounded(float x) { return x >= 0.0f ? (x <= MOST ? x : MOST) : 0.0f; } /* NaN becomes 0 */

static void rls_reset(rqdkm_predictor *p) {
  static const float kIdentity[6] = {1, 0, 0, 1, 0, 1};
  for (int32_t i = 0; i < 6; i++) p->covariance[i] = kStart * kIdentity[i];
  p->weight[0] = 1.0f; /* what came last, until something better is known */
  p->weight[1] = p->weight[2] = 0.0f;
}

void rqdkm_predictor_init(rqdkm_predictor *p, uint32_t kind, float quantile) {
  *p = (rqdkm_predictor){.kind = kind <= RQDKM_PREDICT_RLS ? kind : RQDKM_PREDICT_LAST};
  p->quantile = quantile >= 0.5f ? (quantile <= 0.999f ? quantile : 0.999f) : 0.5f;
  rls_reset(p);
}

/* The regressors of RLS: the last two values, relative to the level so that the weights have no unit, and 1. */
static void regressors(const rqdkm_predictor *p, float x[3]) {
  const float unit = p->level > 1e-6f ? p->level : 1e-6f;
  const uint32_t last = (p->count - 1u) % RQDKM_PREDICT_HISTORY;
  const uint32_t before = p->count > 1u ? (p->count - 2u) % RQDKM_PREDICT_HISTORY : last;
  x[0] = p->history[last] / unit;
  x[1] = p->history[before] / unit;
  x[2] = 1.0f;
}

/* One step of exponentially forgetting least squares: k = P x / (forget + x' P x), w += k e, P = (P - k x' P) / forget.
   P is begun anew when it runs away, as it does when nothing excites it. */
static void rls_learn(rqdkm_predictor *p, float value) {
  float x[3], px[3];
  regressors(p, x);
  const float *c = p->covariance;
  px[0] = c[0] * x[0] + c[1] * x[1] + c[2] * x[2];
  px[1] = c[1] * x[0] + c[3] * x[1] + c[4] * x[2];
  px[2] = c[2] * x[0] + c[4] * x[1] + c[5] * x[2];
  const float unit = p->level > 1e-6f ? p->level : 1e-6f;
  const float scale = 1.0f / (kForget + x[0] * px[0] + x[1] * px[1] + x[2] * px[2]);
  const float error = value / unit - (p->weight[0] * x[0] + p->weight[1] * x[1] + p->weight[2] * x[2]);
  float *w = p->covariance;
  static const uint8_t kRow[6] = {0, 0, 0, 1, 1, 2}, kColumn[6] = {0, 1, 2, 1, 2, 2};
  bool good = true;
  for (int32_t i = 0; i < 3; i++) {
    p->weight[i] += px[i] * scale * error;
    good = good && fabsf(p->weight[i]) <= 10.0f; /* false for NaN */
  }
  for (int32_t i = 0; i < 6; i++) {
    w[i] = (w[i] - px[kRow[i]] * px[kColumn[i]] * scale) * (1.0f / kForget);
    good = good && fabsf(w[i]) <= kMostCovariance;
  }
  good = good && w[0] >= 0.0f && w[3] >= 0.0f && w[5] >= 0.0f;
  if (!good) rls_reset(p);
}

/* Not beyond what was seen lately by more than half its span: weights that a jump has just upset extrapolate wildly. */
static float rls_value(const rqdkm_predictor *p) {
  float x[3];
  regressors(p, x);
  const float unit = p->level > 1e-6f ? p->level : 1e-6f;
  const float value = unit * (p->weight[0] * x[0] + p->weight[1] * x[1] + p->weight[2] * x[2]);
  const uint32_t n = p->count < RQDKM_PREDICT_HISTORY ? p->count : RQDKM_PREDICT_HISTORY;
  float low = p->history[0], high = low;
  for (uint32_t i = 1; i < n; i++) {
    low = p->history[i] < low ? p->history[i] : low;
    high = p->history[i] > high ? p->history[i] : high;
  }
  const float more = 0.5f * (high - low);
  return value < low - more ? low - more : value > high + more ? high + more : value;
}

static float average(const rqdkm_predictor *p) {
  const uint32_t n = p->count < RQDKM_PREDICT_HISTORY ? p->count : RQDKM_PREDICT_HISTORY;
  float sum = 0.0f;
  for (uint32_t i = 0; i < n; i++) sum += p->history[i];
  return sum / (float)n;
}

/* The bound follows the quantile of the errors: up by q when a value lies above it, down by 1 - q when not, so that in
   the long run a share q lies below, whatever the distribution (stochastic approximation, Robbins and Monro). */
static void learn_width(rqdkm_predictor *p, float value) {
  const float error = value - p->expected;
  const float floor = LEAST_ERROR * (p->expected > value ? p->expected : value);
  const float step = (p->error > floor ? p->error : floor) + kWidthGain * p->width;
  p->width += step * (error > p->width ? p->quantile : p->quantile - 1.0f);
  p->width = p->width > floor ? p->width : floor;
  p->error += kErrorGain * (fabsf(error) - p->error); /* afterwards: the step must not depend on the error it weighs */
}

void rqdkm_predictor_update(rqdkm_predictor *p, float value) {
  if (!(value >= 0.0f && value <= MOST)) return;
  if (p->count == 0) {
    p->level = value;
    p->width = 0.1f * value;
  } else {
    learn_width(p, value);
    if (p->kind == RQDKM_PREDICT_RLS) rls_learn(p, value);
    const float ahead = p->level + kDamping * p->trend, before = p->level;
    p->level = bounded(ahead + kLevelGain * (value - ahead));
    p->trend = kDamping * p->trend + kTrendGain * (p->level - before - kDamping * p->trend);
  }
  p->history[p->count % RQDKM_PREDICT_HISTORY] = value;
  p->count = p->count < 0xfffffff0u ? p->count + 1u : 0xfffffff0u - RQDKM_PREDICT_HISTORY; /* keeps the remainder */
  switch (p->kind) {
    case RQDKM_PREDICT_AVERAGE:
      p->expected = average(p);
      break;
    case RQDKM_PREDICT_HOLT:
      p->expected = bounded(p->level + kDamping * p->trend);
      break;
    case RQDKM_PREDICT_RLS:
      p->expected = bounded(rls_value(p));
      break;
    default:
      p->expected = value;
  }
}

float rqdkm_predictor_upper(const rqdkm_predictor *p) { return bounded(p->expected + p->width); }
