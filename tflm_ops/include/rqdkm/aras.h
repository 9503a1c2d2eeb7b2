/* SPDX-License-Identifier: Apache-2.0 */
/* ARAS: which clock, idle mode and priority the next stretch of work gets (docs/aras.md).
 *
 * The application says when a frame begins and ends, when it has nothing to do, and, from time to time, that time has
 * passed; handlers of other work say how long they took. ARAS measures, predicts, and sets clock and priority through
 * a rqdkm_aras_port so that every frame is finished by its deadline and the rest keeps its share, at the least energy.
 *
 * Nothing here allocates or waits; every call does a bounded amount of work: most ticks some dozens of cycles, a full
 * decision a few thousand (docs/aras.md has the most that was measured). All memory is the caller's rqdkm_aras. Calls
 * other than rqdkm_aras_rest_begin and _end are made from one context only (a thread, or a thread and an interrupt that
 * it masks): one that comes while another is at work is dropped and counted. Times are microseconds, currents mA,
 * cycles core cycles. Single precision, no double. */
#ifndef RQDKM_ARAS_H
#define RQDKM_ARAS_H

#include <stdbool.h>
#include <stdint.h>

#include "rqdkm/aras_port.h"
#include "rqdkm/morph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- predictors: one step ahead, with an upper bound */

typedef enum {
  RQDKM_PREDICT_LAST = 0,    /* what came last */
  RQDKM_PREDICT_AVERAGE = 1, /* mean of the last RQDKM_PREDICT_HISTORY */
  RQDKM_PREDICT_HOLT = 2,    /* level and damped trend */
  RQDKM_PREDICT_RLS = 3,     /* recursive least squares on the last two values and a constant */
} rqdkm_predict_kind;

#define RQDKM_PREDICT_HISTORY 8

typedef struct {
  uint32_t kind, count; /* count: values seen, saturates */
  float expected;       /* prediction of the next value, >= 0 */
  float width;          /* upper bound - expected; its quantile is tracked, whatever the errors' distribution */
  float error;          /* mean absolute error, exponentially weighted */
  float quantile;       /* share of values that are to lie below the upper bound */
  float level, trend;
  float history[RQDKM_PREDICT_HISTORY];
  float weight[3], covariance[6]; /* of RLS; upper triangle of a symmetric 3 x 3 */
} rqdkm_predictor;

/* quantile: 0.5 to 0.999. A kind that does not exist becomes LAST. */
void rqdkm_predictor_init(rqdkm_predictor *predictor, uint32_t kind, float quantile);
/* value: 0 to 1e9; anything else, NaN included, is dropped. */
void rqdkm_predictor_update(rqdkm_predictor *predictor, float value);
/* The next value is expected to lie below this. 0 until something was seen. */
float rqdkm_predictor_upper(const rqdkm_predictor *predictor);

/* ---- constants of chip and task, as `rqdkm aras design` writes them */

#define RQDKM_ARAS_POINTS RQDKM_CLOCK_POINTS
#define RQDKM_ARAS_TABLE_VERSION 2

typedef struct {
  uint32_t hz;
  float factor;           /* cycles of a frame here over those at point 0: fewer wait states, fewer cycles; 0.5 to 2 */
  float run_ma, sleep_ma; /* > 0 */
} rqdkm_aras_point;

typedef struct {
  uint32_t version; /* RQDKM_ARAS_TABLE_VERSION */
  uint32_t points;  /* 1 to RQDKM_ARAS_POINTS; point 0 is the fastest */
  uint32_t safe;    /* the point that every fault of the clock ends at: the internal oscillator */
  rqdkm_aras_point point[RQDKM_ARAS_POINTS];
  /* [from][to]: time until `to` drives the core, and the mean current meanwhile */
  uint16_t switch_us[RQDKM_ARAS_POINTS][RQDKM_ARAS_POINTS];
  float switch_ma;
  float volts;
  float stop_ma, wake_us, wake_ma; /* stop mode, and the way out of it, up to the internal oscillator */
  /* the task */
  uint32_t worst_cycles; /* most that a frame takes at point 0, >= 1 */
  uint32_t tick_us;      /* longest time between two calls while a frame is computed, >= 1 */
  uint32_t guard_us;     /* frames are to be finished this much before their deadline */
  uint32_t window_us;    /* over which the rest's share is kept, and loads are measured; >= 1000 */
  uint32_t rest_us;      /* longest time that work of the rest may take behind a wake-up, above the fastest point's */
  float share;           /* of the time that the rest is granted at any priority, 0 to 0.9 */
  float hysteresis; /* a change of clock has to save this part of a frame's energy, in one frame or several; 0 to 0.5 */
  float raise_cost; /* a higher priority has to save this part, per level, 0 to 1 */
  float quantile;   /* of predicted demand that is planned for, 0.5 to 0.999 */
  uint32_t frame_kind, rest_kind; /* rqdkm_predict_kind of the frames' and the rest's demand */
} rqdkm_aras_table;

/* ---- state */

typedef enum {
  RQDKM_ARAS_FAULT_TABLE = 0,   /* a number of the table is out of range: nothing is ever set */
  RQDKM_ARAS_FAULT_REQUEST = 1, /* a point or level that does not exist was asked for, or the port refused one */
  RQDKM_ARAS_FAULT_CLOCK = 2,   /* the clock asked for was not reached: HSE, PLL or regulator */
  RQDKM_ARAS_FAULT_CYCLES = 3,  /* the cycle counter stands while the core runs */
  RQDKM_ARAS_FAULT_JUMP = 4,    /* it counted more than the clock can */
  RQDKM_ARAS_FAULT_TIME = 5,    /* the time stands while cycles pass, or went back */
  RQDKM_ARAS_FAULT_OVERRUN = 6, /* a frame took more than worst_cycles */
  RQDKM_ARAS_FAULT_KINDS = 7
} rqdkm_aras_fault;

typedef enum {
  RQDKM_ARAS_RUN_ON = 0, /* the gap is too short for anything */
  RQDKM_ARAS_SLEEP = 1,
  RQDKM_ARAS_DOZE = 2, /* asleep with the PLL off */
  RQDKM_ARAS_STOP = 3,
} rqdkm_aras_idle_mode;

/* One way to wait: from a wake-up until the clock is back (us), what it costs once (nJ), and its power (mW). */
typedef struct {
  float back_us, once, power;
} rqdkm_aras_way;

typedef struct {
  const rqdkm_aras_table *table;
  const rqdkm_aras_port *port;
  bool usable; /* the table is good */
  volatile bool entered;
  float mhz[RQDKM_ARAS_POINTS];                           /* cycles per microsecond */
  float nanojoules[RQDKM_ARAS_POINTS];                    /* per cycle, running */
  float alone_us, granted_part;                           /* per cycle of a frame alone; share / (1 - share) */
  rqdkm_aras_way way[RQDKM_ARAS_POINTS][RQDKM_ARAS_STOP]; /* by point and mode - 1 */
  uint32_t efficient;                                     /* point with the least energy per frame */

  /* where things stand */
  uint32_t point, level;
  uint64_t now_us;                                  /* of the last look at the counters */
  uint32_t cycles;                                  /* and the counter then */
  bool stuck;                                       /* one of them stands still: only the fastest point is safe */
  uint32_t clock_failures;                          /* in a row */
  uint64_t retry_us;                                /* when the clock is tried again */
  volatile uint32_t rest_depth, rest_started;       /* handlers that are at work */
  volatile uint32_t rest_cycles[RQDKM_ARAS_LEVELS]; /* by class, since the start; wrap */
  volatile uint32_t rest_longest;                   /* cycles of a handler; one that was long once is forgotten */
  uint32_t rest_seen[RQDKM_ARAS_LEVELS];
  float rest_begun; /* of the handler that the last look interrupted */

  /* the frame; cycles are those of point 0 */
  bool busy, announced, overrun;
  uint32_t first_point; /* that the last frame began with */
  float wasted;         /* part of a frame's energy that keeping the point has cost so far */
  uint64_t begun_us, deadline_us;
  uint64_t safe_us;       /* until then the worst case is no danger at level 0, even if nothing had got done */
  uint32_t looked_cycles; /* counter at the last look */
  uint32_t check_cycles, check_ticks;    /* from there: nothing to be decided before */
  uint32_t glance_cycles, glance_ticks;  /* from `cycles`: until there a glance will do; check_ticks behind one */
  uint32_t glance_most;                  /* cycles that the frame may have computed since the decision, for one */
  float glance_rest;                     /* and the rest's part of all of them */
  float glance_spare;                    /* time by which the reserve outlasts the next look, at the decision, */
  float glance_time, glance_gain;        /* less this per cycle since, and this more per cycle of the frame; us */
  uint32_t glance_longest;               /* rest_longest then */
  float decided_rate, decided_done;      /* rate[0] and done at the last decision */
  uint32_t decided_cycles, decided_rest; /* and the counters */
  bool decided_make_up;
  uint64_t decided_us;
  float done, base, expected, upper, worst;
  float relative_us;      /* from begin to deadline, of the last frame */
  rqdkm_predictor demand; /* of frames, over `base` */

  /* the rest; rates in cycles per microsecond */
  uint64_t window_us;
  uint32_t window_rest[RQDKM_ARAS_LEVELS], window_level; /* level: the highest within the window */
  float window_inference,
      window_cycles; /* cycles that frames took, and all that its clocks had for them and the rest */
  float behind[RQDKM_ARAS_LEVELS], behind_us[RQDKM_ARAS_LEVELS]; /* cycles by class that its rate does not know yet */
  rqdkm_predictor rest[RQDKM_ARAS_LEVELS];                       /* rate by class */
  float rate[RQDKM_ARAS_LEVELS];                                 /* upper bound of what may interrupt at each level */
  float expected_rate;                                           /* of all classes */
  uint64_t frame_us; /* since the last begin of a frame: cycles, and their load */
  float frame_rest, frame_load;
  float masked_us; /* time at raised levels that the rest has not yet been given back */
  bool make_up;    /* it is being given back: level 0 only */
  bool late;       /* the frame has no reserve, nor had at the last decision */

  /* idle times */
  bool can_stop, idled;
  volatile uint32_t held;          /* ticks in a row that found the rest at work while no frame was */
  volatile bool raised;            /* so that one of them has raised the priority */
  bool pressed;                    /* a wait ended so, and none has ended otherwise since: the rest has a backlog */
  float gap_us, frame_share;       /* their mean length; how many of them end with a frame */
  uint32_t idle_rest;              /* cycles of the rest since the last one began */
  uint32_t idle_point, idle_flags; /* the last choice, and for what */
  rqdkm_aras_idle_mode idle_mode;
  uint32_t idle_uses;   /* for how many more it is good */
  rqdkm_predictor wake; /* cycles of the rest in each */

  /* what was measured, for whoever wants to know; counters wrap */
  float load_inference, load_rest; /* 0 to 1: cycles over those of point 0 in the same time */
  float told_load;                 /* frame_load as DKM is told it: follows only when that is RQDKM_ARAS_BAND away */
  float slack;                     /* -1 to 1: time left at the end of the last frame, over what it had */
  float memory;                    /* 0 to 1: working memory taken by others */
  uint32_t frames, missed, decisions, switches, dropped, idles[4];
  uint32_t faults[RQDKM_ARAS_FAULT_KINDS];
} rqdkm_aras;

/* ---- calls */

/* Checks the table. Returns 0; or RQDKM_ERROR_ARGUMENT with fault TABLE: all other calls then do nothing but put the
   core to sleep in rqdkm_aras_idle. Table and port have to outlive `aras`. */
int32_t rqdkm_aras_init(rqdkm_aras *aras, const rqdkm_aras_table *table, const rqdkm_aras_port *port);

/* A frame begins, to be finished by deadline_us. cycles: what it will take at point 0 as far as known (of the kernel
   that DKM selected, say), or 0; ARAS learns by how much that is wrong. */
void rqdkm_aras_begin(rqdkm_aras *aras, uint64_t deadline_us, uint32_t cycles);
/* Time has passed: at least every tick_us while the core is awake, from a timer whose interrupt the rest cannot hold up
   (between layers, if there is no such timer). Decides anew only when something may have changed; otherwise it costs
   some dozens of cycles. Outside frames it only lets the
   caller get on, should the rest never come to an end. */
void rqdkm_aras_tick(rqdkm_aras *aras);
/* The frame is finished. Returns whether in time. */
bool rqdkm_aras_end(rqdkm_aras *aras);
/* Nothing to do until until_us, unless an interrupt comes. Returns after one interrupt's handler, or at until_us; call
   it again if there is still nothing to do. flags: */
#define RQDKM_ARAS_CAN_STOP 1u  /* no peripheral needs its clock meanwhile */
#define RQDKM_ARAS_SURPRISED 2u /* a frame may come earlier: the way back to the fastest clock must not be too long */
rqdkm_aras_idle_mode rqdkm_aras_idle(rqdkm_aras *aras, uint64_t until_us, uint32_t flags);

#define RQDKM_ARAS_HELD 4u /* ticks for which the rest may hold the caller up */

/* A handler of the rest begins and ends; nests. which: class of the work, 0 to RQDKM_ARAS_LEVELS - 1: it may interrupt
   inference at priority levels up to `which`. The last class can always. */
void rqdkm_aras_rest_begin(rqdkm_aras *aras);
void rqdkm_aras_rest_end(rqdkm_aras *aras, uint32_t which);

/* Sets a point by hand, until the next decision. Returns RQDKM_ARAS_REFUSED, counted, for one out of the table. */
rqdkm_aras_status rqdkm_aras_request(rqdkm_aras *aras, uint32_t point);

/* Share of the working memory that others have taken: free and total bytes. */
void rqdkm_aras_memory(rqdkm_aras *aras, uint32_t free_bytes, uint32_t total_bytes);

/* ---- with DKM */

/* Noise of the measured load below this does not reach DKM, so that it cannot swing between two kernels either. */
#define RQDKM_ARAS_BAND 0.04f

/* What DKM decides from (load, memory, clock, slack; the input's three numbers are left as they are). Clock is what
   ARAS could give, not what runs now, and load and slack are relative to it: DKM's choice does not depend on ARAS's,
   so that the two cannot chase each other. cycles: of the safe kernel at point 0; limit_us: time for the next frame. */
void rqdkm_aras_morph_state(const rqdkm_aras *aras, rqdkm_morph_state *state, uint32_t cycles, uint32_t limit_us);

#ifdef __cplusplus
}
#endif
#endif
