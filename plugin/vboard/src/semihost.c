/* SPDX-License-Identifier: GPL-2.0-or-later
 * ARM semihosting (BKPT 0xAB). Console writes go to stderr, ":tt" opened for reading is stdin, opened for writing is
 * stdout
 * ("w") or stderr ("a"). The host's files are not reachable: SYS_OPEN of anything else fails. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vboard.h"

enum {
  SYS_OPEN = 0x01,
  SYS_CLOSE,
  SYS_WRITEC,
  SYS_WRITE0,
  SYS_WRITE,
  SYS_READ,
  SYS_READC,
  SYS_ISERROR,
  SYS_ISTTY,
  SYS_SEEK,
  SYS_FLEN = 0x0c,
  SYS_TMPNAM,
  SYS_REMOVE,
  SYS_RENAME,
  SYS_CLOCK,
  SYS_TIME,
  SYS_SYSTEM,
  SYS_ERRNO,
  SYS_GET_CMDLINE = 0x15,
  SYS_HEAPINFO,
  SYS_EXIT = 0x18,
  SYS_EXIT_EXTENDED = 0x20,
  SYS_ELAPSED = 0x30,
  SYS_TICKFREQ
};
enum { HANDLE_STDIN = 1, HANDLE_STDOUT, HANDLE_STDERR, HANDLE_FEATURES, FAILED = -1 };
#define REASON_APPLICATION_EXIT 0x20026u

static uint32_t last_errno;
static uint32_t features_at;
static const uint8_t features[5] = {'S', 'H', 'F', 'B', 0x03}; /* SYS_EXIT_EXTENDED; separate stdout and stderr */

static int32_t fail(uint32_t error) {
  last_errno = error;
  return FAILED;
}

static int32_t sys_open(const uint32_t *block) {
  char name[32] = {0};
  const uint8_t *host = block[2] < sizeof name ? memory_host(block[0], block[2], false) : NULL;
  if (!host) return fail(ENOENT);
  memcpy(name, host, block[2]);
  if (strcmp(name, ":semihosting-features") == 0) {
    features_at = 0;
    return HANDLE_FEATURES;
  }
  if (strcmp(name, ":tt") != 0) return fail(EACCES);
  return block[1] < 4 ? HANDLE_STDIN : block[1] < 8 ? HANDLE_STDOUT : HANDLE_STDERR;
}

/* Returns the number of bytes not written. */
static int32_t sys_write(const uint32_t *block) {
  const uint8_t *host = memory_host(block[1], block[2], false);
  if (!host) return (int32_t)block[2];
  if (block[0] == HANDLE_STDOUT) {
    for (uint32_t k = 0; k < block[2]; k++) host_output(host[k]);
    host_flush();
    return 0;
  }
  if (block[0] != HANDLE_STDERR) return (int32_t)block[2];
  return (int32_t)(block[2] - fwrite(host, 1, block[2], stderr));
}

/* Returns the number of bytes not read. */
static int32_t sys_read(const uint32_t *block) {
  uint8_t *host = memory_host(block[1], block[2], true);
  if (!host) return (int32_t)block[2];
  if (block[0] == HANDLE_FEATURES) {
    uint32_t left = sizeof features - features_at, count = block[2] < left ? block[2] : left;
    memcpy(host, features + features_at, count);
    features_at += count;
    return (int32_t)(block[2] - count);
  }
  if (block[0] != HANDLE_STDIN || block[2] == 0) return (int32_t)block[2];
  host_flush();
  size_t got = host_input_read(host, 1); /* wait for one byte, then take what is there */
  int byte = 0;
  while (got > 0 && got < block[2] && (byte = host_input_take()) >= 0) host[got++] = (uint8_t)byte;
  return (int32_t)(block[2] - got);
}

static int32_t sys_readc(void) {
  uint8_t byte = 0;
  host_flush();
  if (host_input_read(&byte, 1) == 0) end_run(EXIT_CODE_LIMIT, "input closed: SYS_READC at the end of stdin");
  return byte;
}

static void write_string(uint32_t address) {
  const uint8_t *host = NULL;
  while ((host = memory_host(address++, 1, false)) && *host) fputc(*host, stderr);
}

static void sys_exit(uint32_t reason, uint32_t code) {
  if (reason == REASON_APPLICATION_EXIT) {
    end_run((int)(code & 0xff), "exit %u", code);
  } else {
    end_run(1, "exit for reason 0x%x", reason);
  }
}

static uint64_t milliseconds(void) { return rcc_nanoseconds() / 1000000; }

void semihost_call(void) {
  uint32_t operation = cpu_reg(UC_ARM_REG_R0), argument = cpu_reg(UC_ARM_REG_R1), block[4] = {0};
  int32_t result = 0;
  bool has_block = operation != SYS_EXIT && operation != SYS_WRITE0 && operation != SYS_WRITEC;
  for (uint32_t k = 0; has_block && k < 4; k++) memory_read32(argument + 4 * k, &block[k]);
  switch (operation) {
    case SYS_OPEN:
      result = sys_open(block);
      break;
    case SYS_CLOSE:
      break;
    case SYS_WRITEC: {
      const uint8_t *host = memory_host(argument, 1, false);
      if (host) fputc(*host, stderr);
      break;
    }
    case SYS_WRITE0:
      write_string(argument);
      break;
    case SYS_WRITE:
      result = sys_write(block);
      break;
    case SYS_READ:
      result = sys_read(block);
      break;
    case SYS_READC:
      result = sys_readc();
      break;
    case SYS_ISERROR:
      result = (int32_t)block[0] < 0;
      break;
    case SYS_ISTTY:
      result = block[0] >= HANDLE_STDIN && block[0] <= HANDLE_STDERR;
      break;
    case SYS_SEEK:
      if (block[0] == HANDLE_FEATURES && block[1] <= sizeof features) {
        features_at = block[1];
      } else {
        result = fail(ESPIPE);
      }
      break;
    case SYS_FLEN:
      result = block[0] == HANDLE_FEATURES ? (int32_t)sizeof features : 0;
      break;
    case SYS_CLOCK:
      result = (int32_t)(milliseconds() / 10); /* centiseconds of modelled time */
      break;
    case SYS_TIME:
      result = (int32_t)time(NULL);
      break;
    case SYS_ERRNO:
      result = (int32_t)last_errno;
      break;
    case SYS_GET_CMDLINE: { /* an empty command line */
      uint8_t *host = memory_host(block[0], 1, true);
      if (host && block[1] > 0) {
        *host = 0;
        memory_write32(argument + 4, 0);
      } else {
        result = FAILED;
      }
      break;
    }
    case SYS_HEAPINFO:
      for (uint32_t k = 0; k < 4; k++) memory_write32(block[0] + 4 * k, 0); /* unknown: the firmware has its own idea */
      break;
    case SYS_EXIT: /* 32-bit form: R1 is the reason itself */
      sys_exit(argument, 0);
      return;
    case SYS_EXIT_EXTENDED:
      sys_exit(block[0], block[1]);
      return;
    case SYS_ELAPSED:
      memory_write32(argument, (uint32_t)machine.cycles);
      memory_write32(argument + 4, (uint32_t)(machine.cycles >> 32));
      break;
    case SYS_TICKFREQ:
      result = (int32_t)rcc_hclk(); /* SYS_ELAPSED counts HCLK cycles */
      break;
    default:
      message("semihosting operation 0x%x is not supported (pc 0x%08x)", operation, trace_pc());
      result = FAILED;
  }
  cpu_set_reg(UC_ARM_REG_R0, (uint32_t)result);
}
