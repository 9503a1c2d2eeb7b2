/* SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "registers.h"
#include "wait.h"

#ifndef RQDKM_HSE_HZ
#define RQDKM_HSE_HZ 8000000 /* crystal of the STM32F4DISCOVERY */
#endif

/* VCO input 2 MHz (least jitter, RM0090 7.3.2), x 168 = 336 MHz, / 2 = 168 MHz core, / 7 = 48 MHz for USB and RNG. */
#define PLL_INPUT_HZ 2000000
#define HSI_HZ 16000000
#if RQDKM_HSE_HZ % PLL_INPUT_HZ || RQDKM_HSE_HZ < 4000000 || RQDKM_HSE_HZ > 26000000
#error "RQDKM_HSE_HZ must be a multiple of 2 MHz from 4 to 26 MHz"
#endif

enum { kWaitStates168MHz = 5 }; /* DS8626: one per started 30 MHz at 2.7 to 3.6 V */

/* From the internal oscillator's 16 MHz (where the core must be running) to 168 MHz; leaves everything as it was when
   it fails. */
static bool pll_start(bool crystal) {
  const uint32_t divider = (crystal ? RQDKM_HSE_HZ : HSI_HZ) / PLL_INPUT_HZ;
  RCC_PLLCFGR = divider | (168u << 6) | (0u << 16) | (crystal ? RCC_PLLCFGR_SRC_HSE : 0u) | (7u << 24);
  RCC_CR |= RCC_CR_PLLON;
  if (!wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY, kPolls)) {
    RCC_CR &= ~RCC_CR_PLLON;
    (void)wait_for(&RCC_CR, RCC_CR_PLLRDY, 0, kPolls);
    return false;
  }
  /* the regulator reaches scale 1 only once the PLL runs (RM0090 5.1.4) */
  (void)wait_for(&PWR_CSR, PWR_CSR_VOSRDY, PWR_CSR_VOSRDY, kPolls);
  flash_wait_states(kWaitStates168MHz);
  RCC_CFGR = (RCC_CFGR & ~RCC_CFGR_PRESCALERS) | RCC_CFGR_PPRE1_DIV4 | RCC_CFGR_PPRE2_DIV2;
  RCC_CFGR = (RCC_CFGR & ~RCC_CFGR_SW) | RCC_CFGR_SW_PLL;
  if (wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL, kPolls)) return true;
  RCC_CFGR &= ~(RCC_CFGR_SW | RCC_CFGR_PRESCALERS);
  (void)wait_for(&RCC_CFGR, RCC_CFGR_SWS, 0, kPolls);
  RCC_CR &= ~RCC_CR_PLLON;
  flash_wait_states(0);
  return false;
}

board_clock board_clock_init(void) {
  /* back to the reset state first: a debugger or boot loader may have left the PLL running */
  RCC_CR |= RCC_CR_HSION;
  (void)wait_for(&RCC_CR, RCC_CR_HSIRDY, RCC_CR_HSIRDY, kPolls);
  RCC_CFGR &= ~RCC_CFGR_SW;
  (void)wait_for(&RCC_CFGR, RCC_CFGR_SWS, 0, kPolls);
  RCC_CFGR &= ~RCC_CFGR_PRESCALERS;
  RCC_CR &= ~(RCC_CR_PLLON | RCC_CR_HSEBYP);
  (void)wait_for(&RCC_CR, RCC_CR_PLLRDY, 0, kPolls);
  /* the voltage scale may change only while the PLL is off */
  RCC_APB1ENR |= RCC_APB1ENR_PWREN;
  (void)RCC_APB1ENR; /* a peripheral answers two cycles after its clock is enabled (errata ES0182, 2.1.13) */
  PWR_CR |= PWR_CR_VOS_SCALE1;
  FLASH_ACR |= FLASH_ACR_PRFTEN | FLASH_ACR_ICEN | FLASH_ACR_DCEN;

  RCC_CR |= RCC_CR_HSEON;
  if (wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY, kCrystalPolls) && pll_start(true))
    return (board_clock){168000000, 84000000, RQDKM_CLOCK_CRYSTAL_PLL};
  RCC_CR &= ~RCC_CR_HSEON;
  if (pll_start(false)) return (board_clock){168000000, 84000000, RQDKM_CLOCK_INTERNAL_PLL};
  flash_wait_states(0);
  return (board_clock){HSI_HZ, HSI_HZ, RQDKM_CLOCK_INTERNAL};
}
