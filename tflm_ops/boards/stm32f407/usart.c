/* SPDX-License-Identifier: Apache-2.0 */
/* The byte stream over USART1, polled, 8N1. Default pins PB6 (TX) and PB7 (RX): on the STM32F4DISCOVERY, PA9 carries
   the USB connector's 4.7 uF. RQDKM_USART_PA9 selects PA9/PA10 for boards where they are free. */
#include "board.h"
#include "registers.h"

#ifndef RQDKM_BAUD
#define RQDKM_BAUD 115200
#endif

enum { kAlternateFunction = 7 };

void board_usart_rate(const board_clock *clock) { USART1_BRR = (clock->pclk2_hz + RQDKM_BAUD / 2) / RQDKM_BAUD; }

void board_usart_flush(void) {
  for (uint32_t polls = board_poll_limit(10); polls && !(USART1_SR & USART_SR_TC);) polls--;
}

void board_usart_init(const board_clock *clock) {
#ifdef RQDKM_USART_PA9
  RCC_AHB1ENR |= RCC_AHB1ENR_GPIOAEN;
  (void)RCC_AHB1ENR;
  GPIO_AFRH(GPIOA) = (GPIO_AFRH(GPIOA) & ~0xff0u) | kAlternateFunction << 4 | kAlternateFunction << 8;
  GPIO_PUPDR(GPIOA) = (GPIO_PUPDR(GPIOA) & ~(3u << 20)) | 1u << 20; /* an open RX line must not look like data */
  GPIO_MODER(GPIOA) = (GPIO_MODER(GPIOA) & ~(15u << 18)) | 10u << 18;
#else
  RCC_AHB1ENR |= RCC_AHB1ENR_GPIOBEN;
  (void)RCC_AHB1ENR;
  GPIO_AFRL(GPIOB) =
      (GPIO_AFRL(GPIOB) & ~(0xffu << 24)) | (uint32_t)kAlternateFunction << 24 | (uint32_t)kAlternateFunction << 28;
  GPIO_PUPDR(GPIOB) = (GPIO_PUPDR(GPIOB) & ~(3u << 14)) | 1u << 14; /* an open RX line must not look like data */
  GPIO_MODER(GPIOB) = (GPIO_MODER(GPIOB) & ~(15u << 12)) | 10u << 12;
#endif
  RCC_APB2ENR |= RCC_APB2ENR_USART1EN;
  (void)RCC_APB2ENR;
  board_usart_rate(clock);
  USART1_CR1 = USART_CR1_UE | USART_CR1_TE | USART_CR1_RE;
}

int32_t board_usart_read(uint8_t *data, uint32_t size, uint32_t timeout_ms) {
  uint32_t got = 0;
  for (uint32_t polls = board_poll_limit(timeout_ms); polls; polls--) {
    /* reading DR after SR also clears an overrun; the bytes it lost show as a bad CRC */
    while (got < size && (USART1_SR & USART_SR_RXNE)) data[got++] = (uint8_t)USART1_DR;
    if (got) break;
    /* An emulator shares one lock between the processor and its serial line: polling a little less lets bytes in. A
       byte takes 14000 cycles at 115200 baud. */
    for (uint32_t i = 0; i < 8; i++) __asm volatile("nop\n nop\n nop\n nop");
  }
  return (int32_t)got;
}

uint32_t board_usart_write(const uint8_t *data, uint32_t size) {
  const uint32_t limit = board_poll_limit(10); /* a byte takes 87 us at 115200 baud */
  for (uint32_t i = 0; i < size; i++) {
    for (uint32_t polls = limit; !(USART1_SR & USART_SR_TXE);)
      if (polls-- == 0) return i;
    USART1_DR = data[i];
  }
  board_usart_flush(); /* the next thing may be a reset */
  return size;
}
