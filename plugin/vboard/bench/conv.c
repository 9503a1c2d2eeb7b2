/* SPDX-License-Identifier: GPL-2.0-or-later
 * Bare-metal benchmark of the emulator: 3x3 int8 convolution, 16x16x16 -> 14x14x16, weights in flash, repeated ROUNDS
 * times with five wait states and the accelerator on. Ends with exit code 0 when every round gave the same sum. */
#include <arm_acle.h>
#include <stdint.h>

enum {
  SIZE = 16,
  CHANNELS = 16,
  KERNEL = 3,
  OUT = SIZE - KERNEL + 1,
  ROUNDS = 200,
  FLASH_ACR = 0x40023C00,
  CPACR = 0xE000ED88
};

static int8_t input[SIZE * SIZE * CHANNELS] __attribute__((aligned(4)));
static int8_t output[OUT * OUT * CHANNELS];
static const int8_t weights[CHANNELS * KERNEL * KERNEL * CHANNELS]
    __attribute__((aligned(4))) = {1, -2, 3, -4, 5, -6, 7, -8};

static uint32_t rotate_byte(uint32_t word) { return word >> 8 | word << 24; }

/* 16 channels of one tap: four words of four int8 values each from `a` and `w`. */
static int32_t dot16(const int8_t *a, const int8_t *w, int32_t sum) {
  const uint32_t *x = (const uint32_t *)a, *y = (const uint32_t *)w;
  for (int k = 0; k < CHANNELS / 4; k++) {
    sum = __smlad(__sxtb16(x[k]), __sxtb16(y[k]), sum);
    sum = __smlad(__sxtb16(rotate_byte(x[k])), __sxtb16(rotate_byte(y[k])), sum);
  }
  return sum;
}

static void convolve(void) {
  for (int row = 0; row < OUT; row++) {
    for (int column = 0; column < OUT; column++) {
      for (int channel = 0; channel < CHANNELS; channel++) {
        const int8_t *w = weights + channel * KERNEL * KERNEL * CHANNELS;
        int32_t sum = 0;
        for (int y = 0; y < KERNEL; y++) {
          const int8_t *a = input + ((row + y) * SIZE + column) * CHANNELS;
          for (int x = 0; x < KERNEL; x++, w += CHANNELS) sum = dot16(a + x * CHANNELS, w, sum);
        }
        output[(row * OUT + column) * CHANNELS + channel] = (int8_t)__ssat(sum >> 5, 8);
      }
    }
  }
}

static void finish(uint32_t code) {
  uint32_t block[2] = {0x20026, code};
  register uint32_t operation __asm__("r0") = 0x20;
  register uint32_t *argument __asm__("r1") = block;
  __asm__ volatile("bkpt 0xab" : "+r"(operation) : "r"(argument) : "memory");
  for (;;) {
  }
}

void reset(void) {
  *(volatile uint32_t *)CPACR = 0x00f00000;
  *(volatile uint32_t *)FLASH_ACR = 0x705;
  for (unsigned k = 0; k < sizeof input; k++) input[k] = (int8_t)(k * 37 + 11);
  uint32_t first = 0;
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t sum = 0;
    convolve();
    for (unsigned k = 0; k < sizeof output; k++) sum = sum * 31 + (uint32_t)output[k];
    if (round == 0) first = sum;
    if (sum != first) finish(1);
  }
  finish(0);
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[2] = {0x20020000, (uintptr_t)reset};
