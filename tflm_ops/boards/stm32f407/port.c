/* SPDX-License-Identifier: Apache-2.0 */
/* rqdkm/port.h for the STM32F407. */
#include "rqdkm/port.h"

#include "board.h"
#include "port/paint.h"
#include "registers.h"

/* From stm32f407.ld; addresses only */
extern uint8_t _stack_bottom[], _stack_top[], _data_start[], _data_end[], _bss_start[], _bss_end[];
extern uint8_t _workspace_start[], _workspace_end[], _ccm_data_start[], _ccm_data_end[], _ccm_start[], _ccm_end[];
extern uint8_t _flash_start[], _flash_end[], _weights_start[], _weights_end[];

static board_clock core = {16000000, 16000000, RQDKM_CLOCK_INTERNAL};
static bool cycles_count;

static uint32_t distance(const uint8_t *from, const uint8_t *to) { return (uint32_t)((uintptr_t)to - (uintptr_t)from); }

static uint8_t *stack_pointer(void) {
  uint8_t *sp;
  __asm volatile("mov %0, sp" : "=r"(sp));
  return sp;
}

static bool cycles_start(void) {
  DEBUG_DEMCR |= DEBUG_DEMCR_TRCENA;
  DWT_CYCCNT = 0;
  DWT_CTRL |= 1u;
  uint32_t before = DWT_CYCCNT;
  __asm volatile("nop\n nop\n nop\n nop" ::: "memory");
  return DWT_CYCCNT != before;
}

void rqdkm_port_init(void) {
  core = board_clock_init();
  cycles_count = cycles_start();
  board_io_init(&core);
}

void board_port_clock_changed(const board_clock *clock) {
  core = *clock;
  board_io_clock_changed(clock);
}

const char *rqdkm_port_name(void) { return "stm32f407"; }

uint32_t rqdkm_port_cycles(void) { return DWT_CYCCNT; }

bool rqdkm_port_has_cycles(void) { return cycles_count; }

uint32_t rqdkm_port_clock_hz(void) { return core.hclk_hz; }

rqdkm_clock_source rqdkm_port_clock_source(void) { return core.source; }

uint32_t board_poll_limit(uint32_t timeout_ms) {
  uint32_t polls = core.hclk_hz / 64000u * timeout_ms;
  /* an emulator without cycle counter runs faster than its clock says and shares the machine with others */
  return cycles_count ? polls : polls * 64u;
}

int32_t rqdkm_port_read(uint8_t *data, uint32_t size, uint32_t timeout_ms) {
  return board_io_read(data, size, timeout_ms);
}

uint32_t rqdkm_port_write(const uint8_t *data, uint32_t size) { return board_io_write(data, size); }

void rqdkm_port_exit(int32_t code) {
  const volatile uint32_t exit[2] = {0x20026u /* ADP_Stopped_ApplicationExit */, (uint32_t)code};
  (void)board_semihosting(0x20 /* SYS_EXIT_EXTENDED */, exit);
  rqdkm_port_restart(); /* nobody listens: be ready for the next host */
}

void rqdkm_port_restart(void) {
  __asm volatile("dsb" ::: "memory");
  SCB_AIRCR = SCB_AIRCR_RESET;
  __asm volatile("dsb" ::: "memory");
  for (;;) {
  }
}

uint32_t rqdkm_port_irq_save(void) {
  uint32_t state;
  __asm volatile("mrs %0, primask\n cpsid i" : "=r"(state)::"memory");
  return state;
}

void rqdkm_port_irq_restore(uint32_t state) { __asm volatile("msr primask, %0" ::"r"(state) : "memory"); }

void rqdkm_port_stack_paint(void) {
  enum { kMargin = 64 }; /* this function's own frame and what it calls */
  const uint32_t unused = distance(_stack_bottom, stack_pointer());
  if (unused > kMargin) {
    rqdkm_paint(_stack_bottom, unused - kMargin);
  }
}

void rqdkm_port_memory_get(rqdkm_port_memory *m) {
  m->stack = distance(_stack_bottom, _stack_top);
  m->stack_used = m->stack - rqdkm_paint_clean_head(_stack_bottom, m->stack);
  m->data = distance(_data_start, _data_end) + distance(_ccm_data_start, _ccm_data_end);
  m->bss = distance(_bss_start, _bss_end) + distance(_ccm_start, _ccm_end);
  m->workspace = distance(_workspace_start, _workspace_end);
  m->flash = distance(_flash_start, _flash_end);
  m->weights = distance(_weights_start, _weights_end);
  m->code = m->flash - m->weights;
}
