/* SPDX-License-Identifier: Apache-2.0 */
/* Commands, one a line: a letter and up to two numbers.

     c POINT       go to a clock point             r 0|1       start the real-time clock: internal, or 32 kHz crystal
     s KIND US     stop for that long (0 to 2)     p 0|1       PLL from internal oscillator, or crystal
     z US          sleep for that long             w           watch the crystal
     d US          the same with the PLL off
     b US          stay busy for that long         q LEVEL     priority
     l HZ          timer interrupt, or 0: none     o COUNT     set the cycle counter
     e             interrupt by PA0 (the button)   f           stop until an interrupt, at most 60 s
     x CODE        end (where a host listens)

   Each is answered by one line: status, point, HCLK in Hz, microseconds, cycles, interrupts since the last line, 1 when
   on the crystal, and faults: refused, crystal, PLL. */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "power.h"
#include "read_line.h"
#include "registers.h"

#define TIM2_CR1 REG32(0x40000000u)
#define TIM2_DIER REG32(0x4000000Cu)
#define TIM2_SR REG32(0x40000010u)
#define TIM2_EGR REG32(0x40000014u)
#define TIM2_CNT REG32(0x40000024u)
#define TIM2_PSC REG32(0x40000028u)
#define TIM2_ARR REG32(0x4000002Cu)
enum { kIrqExti0 = 6, kIrqTim2 = 28, kTimerUrgency = 8, kUpdateByOverflowOnly = 4 };

static const rqdkm_aras_port *port;
static volatile uint32_t interrupts;

void NMI_Handler(void);
void NMI_Handler(void) { board_clock_nmi(); }

void TIM2_IRQHandler(void);
void TIM2_IRQHandler(void) {
  TIM2_SR = 0;
  (void)TIM2_SR; /* the request must be gone before the handler returns */
  interrupts++;
}

void EXTI0_IRQHandler(void);
void EXTI0_IRQHandler(void) {
  EXTI_PR = 1;
  (void)EXTI_PR;
  interrupts++;
}

static void button_start(void) { /* SYSCFG selects port A after reset */
  RCC_AHB1ENR |= RCC_AHB1ENR_GPIOAEN;
  EXTI_RTSR |= 1;
  EXTI_IMR |= 1;
  NVIC_ISER(0) = 1u << kIrqExti0;
}

/* The timer counts microseconds whatever its clock is. */
static void timer_follows(void *context, const board_clock *clock, uint32_t timer_mhz) {
  (void)context, (void)clock;
  const uint32_t count = TIM2_CNT;
  TIM2_PSC = timer_mhz - 1;
  TIM2_EGR = 1; /* loads the prescaler, and clears the counter */
  TIM2_CNT = count;
}

static void timer_start(uint32_t hz) {
  static board_clock_listener listener = {timer_follows, NULL, NULL};
  static bool linked;
  RCC_APB1ENR |= 1u;
  (void)RCC_APB1ENR;
  TIM2_CR1 = 0;
  TIM2_DIER = 0;
  if (hz == 0) return;
  if (!linked) board_clock_listen(&listener);
  linked = true;
  TIM2_CR1 = kUpdateByOverflowOnly;
  TIM2_ARR = 1000000u / hz - 1;
  timer_follows(NULL, NULL, board_clock_timer_mhz());
  (void)board_irq_priority(kIrqTim2, kTimerUrgency);
  TIM2_DIER = 1;
  NVIC_ISER(0) = 1u << kIrqTim2;
  TIM2_CR1 = kUpdateByOverflowOnly | TIM_CR1_CEN;
}

static void busy(uint32_t us) {
  for (const uint64_t until = port->now_us(NULL) + us; port->now_us(NULL) < until;) {
  }
}

static rqdkm_aras_status obey(char command, uint32_t a, uint32_t b) {
  switch (command) {
    case 'c':
      return port->set_clock(NULL, a);
    case 's':
      return board_stop(port->now_us(NULL) + b, (board_stop_kind)a);
    case 'z':
      return port->sleep(NULL, port->now_us(NULL) + a);
    case 'd':
      return port->doze(NULL, port->now_us(NULL) + a);
    case 'b':
      busy(a);
      return RQDKM_ARAS_OK;
    case 'l':
      timer_start(a);
      return RQDKM_ARAS_OK;
    case 'r':
      return board_rtc_start(a != 0) ? RQDKM_ARAS_OK : RQDKM_ARAS_NO_TIMER;
    case 'p':
      board_clock_prefer_crystal(a != 0);
      return RQDKM_ARAS_OK;
    case 'w':
      board_clock_watch_crystal();
      return RQDKM_ARAS_OK;
    case 'e':
      button_start();
      return RQDKM_ARAS_OK;
    case 'f':
      return port->stop(NULL, port->now_us(NULL) + 60000000);
    case 'q':
      return port->set_priority(NULL, a);
    case 'o':
      DWT_CYCCNT = a;
      return RQDKM_ARAS_OK;
    default:
      return RQDKM_ARAS_REFUSED;
  }
}

int main(void) {
  rqdkm_port_init();
  port = board_aras_port();
  ITM_TCR = 1; /* the virtual board's time line, or a debugger, sees the board's time beside its own */
  ITM_TER = 1;
  uint32_t told = 0;
  for (char line[40];;) {
    if (!read_line(line, sizeof line)) continue;
    char *rest = line + 1;
    const uint32_t a = strtoul(rest, &rest, 10), b = strtoul(rest, &rest, 10);
    if (line[0] == 'x') return (int)a;
    const uint64_t start = port->now_us(NULL);
    const uint32_t cycles = port->cycles(NULL);
    const rqdkm_aras_status status = obey(line[0], a, b);
    const uint32_t spent = port->cycles(NULL) - cycles;
    const uint32_t us = (uint32_t)(port->now_us(NULL) - start);
    ITM_STIM(0) = (uint32_t)port->now_us(NULL);
    const uint32_t point = port->clock(NULL), count = interrupts;
    const board_clock_faults faults = board_clock_fault_counts();
    printf("%d %lu %lu %lu %lu %lu %d %lu %lu %lu\n", (int)status, point, rqdkm_port_clock_hz(), us, spent,
           count - told, board_clock_on_crystal(), faults.refused, faults.crystal, faults.pll);
    fflush(stdout);
    told = count;
  }
}
