/* SPDX-License-Identifier: Apache-2.0 */
/* Frames under a governor while timers interrupt: a trace comes in over USART1, figures go out.

     f TIME TURNS LIMIT TIMED   a frame: arrives at TIME (us), takes TURNS inferences, to be finished within LIMIT (us);
                                TIMED 1: this program knows when; 0: a rising edge at PA0 says so
     r TIME CYCLES LIMIT CLASS  work of the rest; LIMIT in ms; CLASS 0 may be held up, 1 not
     w CYCLES                   longest frame, at 168 MHz
     s PERMILLE                 share of the rest
     n 0|1                      whether stop mode may be used
     g GOVERNOR                 go: 0 ARAS, 1 always 168 MHz, 2 on demand, 3 race to sleep, 4 race to stop
     c                          forget the trace
     m POINT                    cycles of one inference at that clock
     x CODE                     end (where a host listens)

   Frames and their limits also show as markers of the ITM: port 0 the time at `g`, port 1 that of the trace's start,
   port 2 a frame that is finished. The times of a trace count from 20 ms after `g`. */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "demo.h"
#include "power.h"
#include "read_line.h"
#include "registers.h"
#include "rqdkm_model.h"

extern const rqdkm_aras_table aras_table;

enum { kLeadUs = 20000, kIrqExti0 = 6, kSensorUrgency = 2 };

typedef struct {
  uint32_t time_us, limit_us, finish_us; /* finish: 0 where it was too late to begin */
  uint16_t turns;
  uint8_t timed, point;
} frame;

static frame frames[kMostFrames];
static uint32_t frame_count;
static volatile uint32_t edges;
static rqdkm_aras_table table;
static const rqdkm_aras_port *board;

void NMI_Handler(void);
void NMI_Handler(void) { board_clock_nmi(); }

void EXTI0_IRQHandler(void);
void EXTI0_IRQHandler(void) {
  EXTI_PR = 1;
  (void)EXTI_PR;
  edges++;
}

static void sensor_start(void) { /* SYSCFG selects port A after reset */
  RCC_AHB1ENR |= RCC_AHB1ENR_GPIOAEN;
  EXTI_RTSR |= 1;
  EXTI_IMR |= 1;
  (void)board_irq_priority(kIrqExti0, kSensorUrgency);
  NVIC_ISER(0) = 1u << kIrqExti0;
}

/* A new input each time; a feature map would do as well. */
static void compute(uint32_t turns) {
  for (uint32_t k = 0; k < turns; k++) {
    int8_t *input = (int8_t *)rqdkm_model_input(0);
    for (uint32_t i = 0; i < rqdkm_model_inputs[0].bytes; i++) input[i] = (int8_t)(i * 7u + k);
    (void)rqdkm_model_run();
  }
}

static void go(uint32_t governor, bool can_stop) {
  uint32_t sensed = 0, next = 0;
  uint64_t end = 0;
  bool surprised = false;
  for (uint32_t k = 0; k < frame_count; k++) {
    surprised = surprised || !frames[k].timed;
    const uint64_t last = (uint64_t)frames[k].time_us + frames[k].limit_us;
    end = last > end ? last : end;
  }
  edges = 0;
  governor_start(governor, &table, board);
  const uint64_t start = board->now_us(board->context) + kLeadUs;
  end += start;
  ITM_STIM(0) = (uint32_t)board->now_us(board->context); /* a time line shows both times beside each other */
  ITM_STIM(1) = (uint32_t)start;
  rest_start(start, governor_aras());
  for (;;) {
    const uint64_t now = board->now_us(board->context);
    frame *f = &frames[next];
    const bool here = next < frame_count && (f->timed ? start + f->time_us <= now : edges > sensed);
    if (here) {
      sensed += !f->timed;
      next++;
      const uint64_t deadline = start + f->time_us + f->limit_us;
      if (now >= deadline) continue;
      governor_begin(deadline);
      compute(f->turns);
      ITM_STIM(2) = next - 1u; /* the result is there; after governor_end the rest may interrupt again */
      f->finish_us = (uint32_t)(board->now_us(board->context) - start);
      f->point = (uint8_t)board->clock(board->context);
      governor_end();
      continue;
    }
    if (now >= end) break;
    uint64_t until = next < frame_count && f->timed ? start + f->time_us : end;
    until = rest_next() < until ? rest_next() : until;
    rest_waits();
    governor_idle(until, surprised, can_stop);
    rest_again();
  }
  rest_stop();
  governor_finish();
  const governor_figures figures = governor_result();
  const rest_figures rest = rest_result();
  const rqdkm_aras *aras = governor_aras();
  for (uint32_t k = 0; k < frame_count; k++) printf("frame %lu %lu %u\n", k, frames[k].finish_us, frames[k].point);
  printf("rest %lu %lu %lu\n", rest.served, rest.late, rest.worst_us);
  printf("cost %lu %lu %lu %lu %lu %lu %lu %lu\n", figures.begin_cycles, figures.end_cycles, figures.idle_cycles,
         figures.tick_cycles, figures.fast_tick_cycles, (uint32_t)(figures.control_cycles / 1000),
         (uint32_t)(figures.all_cycles / 1000), (uint32_t)(figures.tick_total / 1000));
  printf("aras %lu %lu", aras->decisions, aras->switches);
  for (uint32_t k = 0; k < 4; k++) printf(" %lu", aras->idles[k]);
  for (uint32_t k = 0; k < RQDKM_ARAS_FAULT_KINDS; k++) printf(" %lu", aras->faults[k]);
  printf("\ntime %lu %lu\n", (uint32_t)(start / 1000), (uint32_t)(board->now_us(board->context) / 1000));
}

static void measure(uint32_t point) {
  const rqdkm_aras_status status = board->set_clock(board->context, point);
  compute(1); /* caches */
  const uint32_t start = DWT_CYCCNT;
  compute(1);
  printf("model %lu %d %lu\n", point, (int)status, DWT_CYCCNT - start);
}

int main(void) {
  bool can_stop = true;
  rqdkm_port_init();
  board = board_aras_port();
  board_clock_prefer_crystal(false); /* 2 ms sooner back from stop mode; 1 % is good enough here */
  table = aras_table;
  ITM_TCR = 1;
  ITM_TER = 7;
  sensor_start();
  for (char line[64];;) {
    if (!read_line(line, sizeof line)) continue;
    uint32_t n[4];
    char *rest = line + 1;
    for (uint32_t i = 0; i < 4; i++) n[i] = strtoul(rest, &rest, 10);
    bool good = true;
    switch (line[0]) {
      case 'f':
        good = frame_count < kMostFrames;
        if (good) frames[frame_count++] = (frame){n[0], n[2], 0, (uint16_t)n[1], n[3] != 0, 0};
        break;
      case 'r':
        good = rest_add(n[3], &(rest_arrival){n[0], n[1], (uint16_t)n[2]});
        break;
      case 'w':
        table.worst_cycles = n[0];
        break;
      case 's':
        table.share = (float)n[0] * 1e-3f;
        break;
      case 'n':
        can_stop = n[0] != 0;
        break;
      case 'g':
        go(n[0] < kGovernors ? n[0] : kAras, can_stop);
        break;
      case 'c':
        frame_count = 0;
        rest_clear();
        break;
      case 'm':
        measure(n[0]);
        break;
      case 'x':
        return (int)n[0];
      default:
        good = false;
    }
    if (!good) printf("refused %s\n", line);
    fflush(stdout);
  }
}
