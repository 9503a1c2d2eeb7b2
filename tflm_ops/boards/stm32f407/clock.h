/* SPDX-License-Identifier: Apache-2.0 */
/* Changing the clock while the program runs. board_clock_init() (board.h) has started it; from then on this driver may
   go to any point of rqdkm_clock_point, in the order that RM0090 asks for:

     up     regulator scale (PLL off) - PLL locked - wait states - bus prescalers - switch
     down   switch - bus prescalers - wait states - PLL off - regulator scale

   Two points on the same PLL frequency differ in prescalers only and need no lock. Every wait is bounded. What fails
   ends on the internal oscillator's 16 MHz, is counted, and is reported. Call from thread mode. */
#ifndef RQDKM_BOARD_CLOCK_H
#define RQDKM_BOARD_CLOCK_H

#include "board.h"
#include "rqdkm/aras_port.h"

typedef struct {
  uint32_t refused; /* requests for a point that does not exist */
  uint32_t crystal; /* it did not start, or it stopped */
  uint32_t pll;     /* it did not lock, or the switch to it did not happen */
} board_clock_faults;

/* Goes to a point. RQDKM_ARAS_FALLBACK: the core runs at RQDKM_CLOCK_16 now. A crystal that failed once is not tried
   again: the next request is served from the internal oscillator. Takes 2 us without a lock, 0.2 to 0.3 ms with one, 2
   ms more when the crystal has to start (after stop mode); the serial line is drained first and has its baud rate
   after. */
rqdkm_aras_status board_clock_set(uint32_t point);

/* Where the core is, as the clock registers say. */
rqdkm_clock_point board_clock_point(void);

/* Feed the PLL from the crystal (where it works) or from the internal oscillator, from the next lock on. The crystal is
   accurate, the internal oscillator (1 %) is there 2 ms earlier after stop mode; the crystal is switched off with it.
 */
void board_clock_prefer_crystal(bool crystal);
bool board_clock_on_crystal(void);    /* does the crystal drive the core? */
bool board_clock_wants_crystal(void); /* will the next lock wait for it? */

board_clock_faults board_clock_fault_counts(void);

/* Whoever derives something from a clock (a timer's prescaler, a baud rate) is told when it has changed. The node is
   the caller's; link it once. */
typedef struct board_clock_listener {
  void (*changed)(void *context, const board_clock *clock, uint32_t timer_mhz); /* timer_mhz: of TIM2 to TIM7 */
  void *context;
  struct board_clock_listener *next;
} board_clock_listener;
void board_clock_listen(board_clock_listener *listener);

/* Watches the crystal from now on, whenever it runs: when it stops, the hardware goes to 16 MHz and raises the NMI. The
   application owns that vector:
     void NMI_Handler(void) { board_clock_nmi(); } */
void board_clock_watch_crystal(void);
void board_clock_nmi(void);

/* For power.c, with interrupts masked: to 16 MHz without telling anybody, as stop mode does by itself. To be followed
   by board_clock_set(). */
void board_clock_leave(void);

/* What the timers TIM2 to TIM7 count at the moment, MHz. */
uint32_t board_clock_timer_mhz(void);

#endif
