/* SPDX-License-Identifier: Apache-2.0 */
/* Which byte stream: fixed at build time, or (auto) USART1 unless a semihosting host asks for its console by giving
   "rqdkm-io-semihosting" as the command line. So one image serves a real board, the virtual board and QEMU, where the
   emulated serial line is a hundred times slower than semihosting. */
#include <string.h>

#include "board.h"

#define IO_USART 1
#define IO_SEMIHOSTING 2
#define IO_AUTO 3
#ifndef RQDKM_IO
#define RQDKM_IO IO_AUTO
#endif

static bool console;

static bool console_asked_for(void) {
  enum { kSysGetCmdline = 0x15 };
  static const char kWanted[] = "rqdkm-io-semihosting";
  char line[64] = "";
  const volatile uint32_t parameters[2] = {(uint32_t)line, sizeof line};
  return board_semihosting(kSysGetCmdline, parameters) == 0 && memcmp(line, kWanted, sizeof kWanted) == 0;
}

void board_io_init(const board_clock *clock) {
  console = RQDKM_IO == IO_SEMIHOSTING || (RQDKM_IO == IO_AUTO && console_asked_for());
  if (console)
    board_console_init();
  else
    board_usart_init(clock);
}

void board_io_flush(void) {
  if (!console) board_usart_flush();
}

void board_io_clock_changed(const board_clock *clock) {
  if (!console) board_usart_rate(clock);
}

int32_t board_io_read(uint8_t *data, uint32_t size, uint32_t timeout_ms) {
  return console ? board_console_read(data, size, timeout_ms) : board_usart_read(data, size, timeout_ms);
}

uint32_t board_io_write(const uint8_t *data, uint32_t size) {
  return console ? board_console_write(data, size) : board_usart_write(data, size);
}
