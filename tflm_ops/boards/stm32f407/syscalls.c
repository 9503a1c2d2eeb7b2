/* SPDX-License-Identifier: Apache-2.0 */
/* What newlib asks of the system. printf goes to the byte stream as text between frames; malloc gets the RAM that is
   left (nothing here uses it). */
#include <errno.h>
#include <stddef.h>
#include <sys/stat.h>

#include "rqdkm/port.h"

extern char _heap_start[], _heap_end[];

int _close(int file);
int _fstat(int file, struct stat *status);
int _getpid(void);
int _isatty(int file);
int _kill(int process, int signal);
int _lseek(int file, int offset, int whence);
int _read(int file, char *data, int size);
void *_sbrk(ptrdiff_t increment);
int _write(int file, const char *data, int size);
void _exit(int code);

void *_sbrk(ptrdiff_t increment) {
  static char *top = _heap_start;
  if (increment > _heap_end - top || increment < _heap_start - top) {
    errno = ENOMEM;
    return (void *)-1;
  }
  char *old = top;
  top += increment;
  return old;
}

int _write(int file, const char *data, int size) {
  (void)file;
  return size < 0 ? -1 : (int)rqdkm_port_write((const uint8_t *)data, (uint32_t)size);
}

void _exit(int code) { rqdkm_port_exit(code); }

int _fstat(int file, struct stat *status) {
  (void)file;
  status->st_mode = S_IFCHR;
  return 0;
}

int _close(int file) { return (void)file, -1; }
int _getpid(void) { return 1; }
int _isatty(int file) { return (void)file, 1; }
int _kill(int process, int signal) { return (void)process, (void)signal, -1; }
int _lseek(int file, int offset, int whence) { return (void)file, (void)offset, (void)whence, 0; }
int _read(int file, char *data, int size) { return (void)file, (void)data, (void)size, 0; }
