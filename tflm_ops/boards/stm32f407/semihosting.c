/* SPDX-License-Identifier: Apache-2.0 */
#include "board.h"

__attribute__((noinline)) int32_t board_semihosting(uint32_t operation, const volatile void *parameters) {
  register uint32_t r0 __asm("r0") = operation;
  register const volatile void *r1 __asm("r1") = parameters;
  __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return (int32_t)r0;
}
