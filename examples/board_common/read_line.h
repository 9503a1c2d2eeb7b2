/* SPDX-License-Identifier: Apache-2.0 */
/* Commands of a line each, over the port's serial line. */
#ifndef BOARD_COMMON_READ_LINE_H
#define BOARD_COMMON_READ_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "rqdkm/port.h"

/* Waits for one; what does not fit into `size` bytes is left out. False: an empty line, or nobody there any more. */
static bool read_line(char *line, uint32_t size) {
  uint32_t count = 0;
  for (;;) {
    uint8_t byte = 0;
    const int32_t got = rqdkm_port_read(&byte, 1, 1000);
    if (got == RQDKM_PORT_CLOSED) return false;
    if (got == 0) continue;
    if (byte == '\n' || byte == '\r') break;
    if (count + 1 < size) line[count++] = (char)byte;
  }
  line[count] = 0;
  return count != 0;
}

#endif
