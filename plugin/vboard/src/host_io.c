/* SPDX-License-Identifier: GPL-2.0-or-later
 * The process's stdin and stdout, buffered. stdin is polled, never read blocking except where the firmware asks for it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "vboard.h"

enum { INPUT_BYTES = 65536, OUTPUT_BYTES = 4096 };

static uint8_t input[INPUT_BYTES], output[OUTPUT_BYTES];
static size_t input_at, input_end, output_count;
static bool end_of_file;

void host_init(void) { signal(SIGPIPE, SIG_IGN); }

/* Wait up to `milliseconds` (-1: for ever) and read what is there. */
static void fill(int milliseconds) {
  if (end_of_file || input_at < input_end) return;
  struct pollfd descriptor = {.fd = STDIN_FILENO, .events = POLLIN};
  int ready = poll(&descriptor, 1, milliseconds);
  if (ready == 0 || (ready < 0 && errno == EINTR)) return;
  ssize_t got = ready > 0 && !(descriptor.revents & POLLNVAL) ? read(STDIN_FILENO, input, sizeof input) : 0;
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
  input_at = 0;
  input_end = got > 0 ? (size_t)got : 0;
  end_of_file = got <= 0;
}

bool host_input_ready(void) {
  fill(0);
  return input_at < input_end;
}

int host_input_take(void) { return host_input_ready() ? input[input_at++] : -1; }

bool host_input_closed(void) { return !host_input_ready() && end_of_file; }

void host_input_wait(double seconds) { fill((int)(seconds * 1000 + 0.999)); }

size_t host_input_read(uint8_t *to, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    fill(100);
    events_check_limits();
    if (machine.stop == STOP_END || (end_of_file && input_at == input_end)) break;
    size_t some = input_end - input_at < bytes - done ? input_end - input_at : bytes - done;
    memcpy(to + done, input + input_at, some);
    input_at += some;
    done += some;
  }
  return done;
}

void host_flush(void) {
  size_t done = 0;
  while (done < output_count) {
    ssize_t put = write(STDOUT_FILENO, output + done, output_count - done);
    if (put > 0) {
      done += (size_t)put;
    } else if (put < 0 && errno == EAGAIN) {
      struct pollfd descriptor = {.fd = STDOUT_FILENO, .events = POLLOUT};
      poll(&descriptor, 1, 100);
    } else if (put == 0 || errno != EINTR) {
      output_count = 0;
      end_run(EXIT_CODE_LIMIT, "output closed: %s", put < 0 ? strerror(errno) : "nothing written");
      return;
    }
  }
  output_count = 0;
}

void host_output(uint8_t byte) {
  output[output_count++] = byte;
  if (output_count == sizeof output) host_flush();
}
