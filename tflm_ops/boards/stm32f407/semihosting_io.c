/* SPDX-License-Identifier: Apache-2.0 */
/* The byte stream over semihosting: the debugger's (or emulator's) own standard input and output. Slow on a real probe,
   but needs no wire besides SWD. */
#include "board.h"

enum { kSysOpen = 0x01, kSysWrite = 0x05, kSysRead = 0x06, kModeRead = 0 /* "r" */, kModeWrite = 4 /* "w" */ };

static int32_t input = -1, output = -1;

static int32_t console(uint32_t mode) {
  static const char kName[] = ":tt";
  const volatile uint32_t parameters[3] = {(uint32_t)kName, mode, sizeof kName - 1};
  return board_semihosting(kSysOpen, parameters);
}

void board_console_init(void) {
  input = console(kModeRead);
  output = console(kModeWrite);
}

int32_t board_console_read(uint8_t *data, uint32_t size, uint32_t timeout_ms) {
  (void)timeout_ms; /* the host's read() waits; the core is stopped meanwhile */
  const volatile uint32_t parameters[3] = {(uint32_t)input, (uint32_t)data, size};
  int32_t missing = input < 0 ? -1 : board_semihosting(kSysRead, parameters);
  /* size "missing" is the end of the stream, anything out of range an error: the host is gone either way */
  return missing >= 0 && (uint32_t)missing < size ? (int32_t)size - missing : RQDKM_PORT_CLOSED;
}

uint32_t board_console_write(const uint8_t *data, uint32_t size) {
  const volatile uint32_t parameters[3] = {(uint32_t)output, (uint32_t)data, size};
  int32_t missing = output < 0 ? -1 : board_semihosting(kSysWrite, parameters);
  return missing >= 0 && (uint32_t)missing <= size ? size - (uint32_t)missing : 0;
}
