/* SPDX-License-Identifier: Apache-2.0 */
/* The few registers this board support uses, named as in RM0090 (STM32F407) and the Armv7-M manual (DDI 0403). */
#ifndef RQDKM_BOARD_REGISTERS_H
#define RQDKM_BOARD_REGISTERS_H

#include <stdint.h>

#define REG32(address) (*(volatile uint32_t *)(address))

/* RM0090 7.3: reset and clock control */
#define RCC_CR REG32(0x40023800u)
#define RCC_PLLCFGR REG32(0x40023804u)
#define RCC_CFGR REG32(0x40023808u)
#define RCC_CIR REG32(0x4002380Cu)
#define RCC_AHB1ENR REG32(0x40023830u)
#define RCC_APB1ENR REG32(0x40023840u)
#define RCC_APB2ENR REG32(0x40023844u)
#define RCC_BDCR REG32(0x40023870u)
#define RCC_CSR REG32(0x40023874u)
#define RCC_CR_HSION (1u << 0)
#define RCC_CR_HSIRDY (1u << 1)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_CSSON (1u << 19)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_PLLCFGR_SRC_HSE (1u << 22)
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define RCC_CFGR_HPRE_DIV2 (8u << 4)
#define RCC_CFGR_HPRE_DIV4 (9u << 4)
#define RCC_CFGR_PPRE1_DIV2 (4u << 10)
#define RCC_CFGR_PPRE1_DIV4 (5u << 10)
#define RCC_CFGR_PPRE2_DIV2 (4u << 13)
#define RCC_CFGR_PRESCALERS ((15u << 4) | (7u << 10) | (7u << 13))
#define RCC_CIR_CSSF (1u << 7)
#define RCC_CIR_CSSC (1u << 23)
#define RCC_AHB1ENR_GPIOAEN (1u << 0)
#define RCC_AHB1ENR_GPIOBEN (1u << 1)
#define RCC_APB1ENR_TIM5EN (1u << 3)
#define RCC_APB1ENR_PWREN (1u << 28)
#define RCC_APB2ENR_USART1EN (1u << 4)
#define RCC_BDCR_LSEON (1u << 0)
#define RCC_BDCR_LSERDY (1u << 1)
#define RCC_BDCR_RTCSEL (3u << 8)
#define RCC_BDCR_RTCSEL_LSE (1u << 8)
#define RCC_BDCR_RTCSEL_LSI (2u << 8)
#define RCC_BDCR_RTCEN (1u << 15)
#define RCC_BDCR_BDRST (1u << 16)
#define RCC_CSR_LSION (1u << 0)
#define RCC_CSR_LSIRDY (1u << 1)

/* RM0090 5.4: power control */
#define PWR_CR REG32(0x40007000u)
#define PWR_CSR REG32(0x40007004u)
#define PWR_CR_LPDS (1u << 0) /* stop mode: low-power regulator */
#define PWR_CR_PDDS (1u << 1) /* deep sleep is standby */
#define PWR_CR_DBP (1u << 8)  /* backup domain may be written */
#define PWR_CR_FPDS (1u << 9) /* stop mode: flash in deep power-down */
#define PWR_CR_VOS_SCALE1 (1u << 14)
#define PWR_CSR_VOSRDY (1u << 14)

/* RM0090 3.9: flash interface; the ART accelerator is the prefetch buffer and the two caches */
#define FLASH_ACR REG32(0x40023C00u)
#define FLASH_ACR_LATENCY 7u
#define FLASH_ACR_PRFTEN (1u << 8)
#define FLASH_ACR_ICEN (1u << 9)
#define FLASH_ACR_DCEN (1u << 10)

/* RM0090 8.4, 30.6: GPIO and USART1 */
#define GPIOA 0x40020000u
#define GPIOB 0x40020400u
#define GPIO_MODER(port) REG32((port) + 0x00u)
#define GPIO_PUPDR(port) REG32((port) + 0x0Cu)
#define GPIO_AFRL(port) REG32((port) + 0x20u)
#define GPIO_AFRH(port) REG32((port) + 0x24u)
#define USART1_SR REG32(0x40011000u)
#define USART1_DR REG32(0x40011004u)
#define USART1_BRR REG32(0x40011008u)
#define USART1_CR1 REG32(0x4001100Cu)
#define USART_SR_RXNE (1u << 5)
#define USART_SR_TC (1u << 6)
#define USART_SR_TXE (1u << 7)
#define USART_CR1_RE (1u << 2)
#define USART_CR1_TE (1u << 3)
#define USART_CR1_UE (1u << 13)

/* RM0090 12.3, 18.4, 26.6: EXTI line 22, TIM5, real-time clock */
#define EXTI_IMR REG32(0x40013C00u)
#define EXTI_RTSR REG32(0x40013C08u)
#define EXTI_PR REG32(0x40013C14u)
#define EXTI_RTC_WAKE_UP (1u << 22)
#define TIM5_CR1 REG32(0x40000C00u)
#define TIM5_DIER REG32(0x40000C0Cu)
#define TIM5_SR REG32(0x40000C10u)
#define TIM5_EGR REG32(0x40000C14u)
#define TIM5_CNT REG32(0x40000C24u)
#define TIM5_PSC REG32(0x40000C28u)
#define TIM5_ARR REG32(0x40000C2Cu)
#define TIM5_CCR1 REG32(0x40000C34u)
#define TIM_CR1_CEN (1u << 0)
#define TIM_DIER_CC1IE (1u << 1)
#define TIM_SR_CC1IF (1u << 1)
#define RTC_TR REG32(0x40002800u)
#define RTC_CR REG32(0x40002808u)
#define RTC_ISR REG32(0x4000280Cu)
#define RTC_PRER REG32(0x40002810u)
#define RTC_WUTR REG32(0x40002814u)
#define RTC_WPR REG32(0x40002824u)
#define RTC_SSR REG32(0x40002828u)
#define RTC_CR_WUCKSEL_16 0u
#define RTC_CR_WUCKSEL_2 3u
#define RTC_CR_BYPSHAD (1u << 5)
#define RTC_CR_WUTE (1u << 10)
#define RTC_CR_WUTIE (1u << 14)
#define RTC_ISR_WUTWF (1u << 2)
#define RTC_ISR_INITF (1u << 6)
#define RTC_ISR_INIT (1u << 7)
#define RTC_ISR_WUTF (1u << 10)
#define RTC_ISR_KEEP 0x3F20u /* flags are cleared by writing zero */

/* DDI 0403 B3.2, B3.4, C1.8: system control, MPU, debug */
#define NVIC_ISER(word) REG32(0xE000E100u + 4 * (word))
#define NVIC_ICER(word) REG32(0xE000E180u + 4 * (word))
#define NVIC_ICPR(word) REG32(0xE000E280u + 4 * (word))
#define NVIC_IPR(irq) (*(volatile uint8_t *)(0xE000E400u + (irq)))
#define SCB_VTOR REG32(0xE000ED08u)
#define SCB_AIRCR REG32(0xE000ED0Cu)
#define SCB_AIRCR_RESET 0x05FA0004u
#define SCB_SCR REG32(0xE000ED10u)
#define SCB_SCR_SLEEPDEEP (1u << 2)
#define SCB_CCR REG32(0xE000ED14u)
#define SCB_CCR_DIV_0_TRP (1u << 4)
#define SCB_CFSR REG32(0xE000ED28u)
#define SCB_CFSR_STACKING ((1u << 4) | (1u << 5) | (1u << 12) | (1u << 13)) /* MSTKERR MLSPERR STKERR LSPERR */
#define SCB_HFSR REG32(0xE000ED2Cu)
#define SCB_HFSR_VECTTBL (1u << 1)
#define SCB_MMFAR REG32(0xE000ED34u)
#define SCB_BFAR REG32(0xE000ED38u)
#define SCB_CPACR REG32(0xE000ED88u)
#define FPU_FPCCR REG32(0xE000EF34u)
#define FPU_FPCCR_LSPACT (1u << 0)
#define MPU_TYPE REG32(0xE000ED90u)
#define MPU_CTRL REG32(0xE000ED94u)
#define MPU_RNR REG32(0xE000ED98u)
#define MPU_RBAR REG32(0xE000ED9Cu)
#define MPU_RASR REG32(0xE000EDA0u)
#define DEBUG_DEMCR REG32(0xE000EDFCu)
#define DEBUG_DEMCR_TRCENA (1u << 24)
#define ITM_STIM(port) REG32(0xE0000000u + 4 * (port))
#define ITM_TER REG32(0xE0000E00u)
#define ITM_TCR REG32(0xE0000E80u)
#define DWT_CTRL REG32(0xE0001000u)
#define DWT_CYCCNT REG32(0xE0001004u)

#endif
