/* SPDX-License-Identifier: Apache-2.0 */
/* What a board must provide. Everything under src/port/ and every generated model is written against this header only;
   a new board implements these functions (boards/stm32f407 is the example) and nothing else changes.

   Rules for implementations: no function waits without a bound, none allocates memory, none but rqdkm_port_init is
   called before it, and all are called from thread mode. */
#ifndef RQDKM_PORT_H
#define RQDKM_PORT_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the core clock comes from, worst to best. */
typedef enum {
  RQDKM_CLOCK_INTERNAL = 0,     /* internal oscillator, no PLL: everything else failed */
  RQDKM_CLOCK_INTERNAL_PLL = 1, /* PLL fed by the internal oscillator: full speed, about 1 % accuracy */
  RQDKM_CLOCK_CRYSTAL_PLL = 2,  /* PLL fed by the crystal: full speed, crystal accuracy */
} rqdkm_clock_source;

/* Sizes in bytes, fixed at link time except stack_used. */
typedef struct {
  uint32_t stack, stack_used;    /* reserved, and the deepest use since rqdkm_port_stack_paint */
  uint32_t data, bss, workspace; /* static RAM: initialised, zeroed, and the model's arenas */
  uint32_t code, weights, flash; /* flash: code with read-only data, weights, and the whole image */
} rqdkm_port_memory;

/* Clock, cycle counter and byte stream; called once, first. */
void rqdkm_port_init(void);

/* Short board name, e.g. "stm32f407". */
const char *rqdkm_port_name(void);

/* Free-running core cycle counter, wraps at 2^32. Always 0 where rqdkm_port_has_cycles() is false. */
uint32_t rqdkm_port_cycles(void);
/* False where the counter does not count, as in QEMU: cycle figures are then "not available", not 0. */
bool rqdkm_port_has_cycles(void);

/* Core clock reached, Hz, and what feeds it. */
uint32_t rqdkm_port_clock_hz(void);
rqdkm_clock_source rqdkm_port_clock_source(void);

/* Reads 1 to size bytes. Returns the number read, 0 when none came within timeout_ms, RQDKM_PORT_CLOSED when the host
   is gone for good. timeout_ms is approximate; a semihosting port may wait for as long as its host does. */
#define RQDKM_PORT_CLOSED (-1)
int32_t rqdkm_port_read(uint8_t *data, uint32_t size, uint32_t timeout_ms);

/* Writes size bytes. Returns the number written; fewer than size when the line did not take them in time. */
uint32_t rqdkm_port_write(const uint8_t *data, uint32_t size);

/* Ends the program with an exit code where a host listens (emulator, debugger); restarts the board where none does. */
void rqdkm_port_exit(int32_t code) __attribute__((noreturn));

/* Restarts the board. */
void rqdkm_port_restart(void) __attribute__((noreturn));

/* Critical section: rqdkm_port_irq_save() masks interrupts and returns the state to give back. Nests. */
uint32_t rqdkm_port_irq_save(void);
void rqdkm_port_irq_restore(uint32_t state);

/* Fills the unused stack with a pattern, so that rqdkm_port_memory_get() can tell how deep it was used. */
void rqdkm_port_stack_paint(void);
void rqdkm_port_memory_get(rqdkm_port_memory *memory);

#ifdef __cplusplus
}
#endif
#endif
