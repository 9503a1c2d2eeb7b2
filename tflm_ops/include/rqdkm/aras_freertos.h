/* SPDX-License-Identifier: Apache-2.0 */
/* ARAS under FreeRTOS: its priority levels are priorities of the task that computes frames.
 *
 * Include FreeRTOS.h and task.h before it. The port that ARAS is given is the board's with priorities of its own:
 *
 *   static rqdkm_aras_port port;
 *   static rqdkm_aras_freertos tasks = {.levels = {2, 3, 4, 5}};
 *
 *   tasks.inference = handle;                               (of the task, once it exists)
 *   rqdkm_aras_freertos_attach(&port, &tasks, board_port);  (the board's clocks, counters, sleep and stop)
 *
 * Call rqdkm_aras_begin, _end and _idle from that one task, and rqdkm_aras_tick from a software timer of a higher
 * priority than any of `levels`, or between layers. In place of rqdkm_aras_idle the task may block on its next frame;
 * then FreeRTOS's own idle task sleeps, and clocks stay as the last frame left them. */
#ifndef RQDKM_ARAS_FREERTOS_H
#define RQDKM_ARAS_FREERTOS_H

#include "rqdkm/aras_port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  TaskHandle_t inference;                /* the task that computes frames */
  UBaseType_t levels[RQDKM_ARAS_LEVELS]; /* its priority at each level, ascending, below configMAX_PRIORITIES */
  const rqdkm_aras_port *board;
} rqdkm_aras_freertos;

static inline rqdkm_aras_status rqdkm_aras_freertos_priority(void *context, uint32_t level) {
  const rqdkm_aras_freertos *tasks = (const rqdkm_aras_freertos *)context;
  if (level >= RQDKM_ARAS_LEVELS || tasks->inference == NULL) {
    return RQDKM_ARAS_REFUSED;
  }
  vTaskPrioritySet(tasks->inference, tasks->levels[level]);
  return RQDKM_ARAS_OK;
}

/* The board's own functions, which know the board's context only. */
static inline uint32_t rqdkm_aras_freertos_cycles(void *context) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->cycles(board->context);
}
static inline uint64_t rqdkm_aras_freertos_now(void *context) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->now_us(board->context);
}
static inline uint32_t rqdkm_aras_freertos_clock(void *context) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->clock(board->context);
}
static inline rqdkm_aras_status rqdkm_aras_freertos_set_clock(void *context, uint32_t point) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->set_clock(board->context, point);
}
static inline rqdkm_aras_status rqdkm_aras_freertos_sleep(void *context, uint64_t until_us) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->sleep(board->context, until_us);
}
static inline rqdkm_aras_status rqdkm_aras_freertos_doze(void *context, uint64_t until_us) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->doze(board->context, until_us);
}
static inline rqdkm_aras_status rqdkm_aras_freertos_stop(void *context, uint64_t until_us) {
  const rqdkm_aras_port *board = ((const rqdkm_aras_freertos *)context)->board;
  return board->stop(board->context, until_us);
}

/* port: becomes the board's, with priorities of tasks in place of interrupts'. board and tasks have to outlive it. */
static inline void rqdkm_aras_freertos_attach(rqdkm_aras_port *port, rqdkm_aras_freertos *tasks,
                                              const rqdkm_aras_port *board) {
  tasks->board = board;
  port->context = tasks;
  port->cycles = rqdkm_aras_freertos_cycles;
  port->now_us = rqdkm_aras_freertos_now;
  port->clock = rqdkm_aras_freertos_clock;
  port->set_clock = rqdkm_aras_freertos_set_clock;
  port->sleep = rqdkm_aras_freertos_sleep;
  port->doze = rqdkm_aras_freertos_doze;
  port->stop = rqdkm_aras_freertos_stop;
  port->set_priority = rqdkm_aras_freertos_priority;
}

#ifdef __cplusplus
}
#endif
#endif
