/* SPDX-License-Identifier: Apache-2.0 */
/* The pieces of this board support and who may call what: port.c puts them together behind rqdkm/port.h. */
#ifndef RQDKM_BOARD_H
#define RQDKM_BOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "rqdkm/port.h"

typedef struct {
  uint32_t hclk_hz, pclk2_hz; /* core and APB2 (USART1) clocks */
  rqdkm_clock_source source;
} board_clock;

/* Raises the core clock to 168 MHz with the flash accelerator on, from the crystal, else from the internal oscillator;
   stays on the internal 16 MHz when no PLL locks. Every wait is bounded: at most about 0.2 s altogether. Any wait
   states, voltage scale and prescalers change in the order RM0090 asks for. */
board_clock board_clock_init(void);

/* The byte stream: USART1, or semihosting's console. io.c chooses. Semantics of rqdkm_port_read/write. */
void board_io_init(const board_clock *clock);
int32_t board_io_read(uint8_t *data, uint32_t size, uint32_t timeout_ms);
uint32_t board_io_write(const uint8_t *data, uint32_t size);

/* Everything written has left the chip (bounded); before and after a change of clock. */
void board_io_flush(void);
void board_io_clock_changed(const board_clock *clock);

void board_usart_init(const board_clock *clock);
int32_t board_usart_read(uint8_t *data, uint32_t size, uint32_t timeout_ms);
uint32_t board_usart_write(const uint8_t *data, uint32_t size);
void board_usart_flush(void);
void board_usart_rate(const board_clock *clock); /* divider for RQDKM_BAUD */

void board_console_init(void);
int32_t board_console_read(uint8_t *data, uint32_t size, uint32_t timeout_ms);
uint32_t board_console_write(const uint8_t *data, uint32_t size);

/* Semihosting (Arm's "Semihosting for AArch32 and AArch64"). Returns the host's answer in r0, or -1 when nobody
   listens: the hard fault handler then skips the breakpoint. */
int32_t board_semihosting(uint32_t operation, const volatile void *parameters);

/* port.c's copy of the clock, and the byte stream, follow. */
void board_port_clock_changed(const board_clock *clock);

/* How often a polling loop of about 64 cycles may go round in timeout_ms. */
uint32_t board_poll_limit(uint32_t timeout_ms);

#endif
