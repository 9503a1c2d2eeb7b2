/* SPDX-License-Identifier: Apache-2.0 */
/* Vector table and reset. Handlers are weak: define a function of the same name to take an interrupt; an interrupt
   nobody handles is reported as a fault (fault.c). */
#include <stdint.h>

#include "registers.h"
#include "rqdkm/port.h"

int main(void);
void Reset_Handler(void) __attribute__((noreturn));
void board_fault_entry(void);

/* From stm32f407.ld */
extern uint32_t _stack_top[], _data_start[], _data_end[], _data_source[], _bss_start[], _bss_end[];
extern uint32_t _ccm_data_start[], _ccm_data_end[], _ccm_data_source[], _ccm_start[], _ccm_end[];
extern void (*__init_array_start[])(void);
extern void (*__init_array_end[])(void);

#define HANDLER(name) void name(void) __attribute__((weak, alias("board_unhandled")));

/* RM0090 table 62, in order of position */
/* clang-format off */
#define IRQ_LIST(X) \
  X(WWDG) X(PVD) X(TAMP_STAMP) X(RTC_WKUP) X(FLASH) X(RCC) X(EXTI0) X(EXTI1) X(EXTI2) X(EXTI3) X(EXTI4) \
  X(DMA1_Stream0) X(DMA1_Stream1) X(DMA1_Stream2) X(DMA1_Stream3) X(DMA1_Stream4) X(DMA1_Stream5) X(DMA1_Stream6) \
  X(ADC) X(CAN1_TX) X(CAN1_RX0) X(CAN1_RX1) X(CAN1_SCE) X(EXTI9_5) X(TIM1_BRK_TIM9) X(TIM1_UP_TIM10) \
  X(TIM1_TRG_COM_TIM11) X(TIM1_CC) X(TIM2) X(TIM3) X(TIM4) X(I2C1_EV) X(I2C1_ER) X(I2C2_EV) X(I2C2_ER) X(SPI1) \
  X(SPI2) X(USART1) X(USART2) X(USART3) X(EXTI15_10) X(RTC_Alarm) X(OTG_FS_WKUP) X(TIM8_BRK_TIM12) X(TIM8_UP_TIM13) \
  X(TIM8_TRG_COM_TIM14) X(TIM8_CC) X(DMA1_Stream7) X(FSMC) X(SDIO) X(TIM5) X(SPI3) X(UART4) X(UART5) X(TIM6_DAC) \
  X(TIM7) X(DMA2_Stream0) X(DMA2_Stream1) X(DMA2_Stream2) X(DMA2_Stream3) X(DMA2_Stream4) X(ETH) X(ETH_WKUP) \
  X(CAN2_TX) X(CAN2_RX0) X(CAN2_RX1) X(CAN2_SCE) X(OTG_FS) X(DMA2_Stream5) X(DMA2_Stream6) X(DMA2_Stream7) \
  X(USART6) X(I2C3_EV) X(I2C3_ER) X(OTG_HS_EP1_OUT) X(OTG_HS_EP1_IN) X(OTG_HS_WKUP) X(OTG_HS) X(DCMI) X(CRYP) \
  X(HASH_RNG) X(FPU)
/* clang-format on */

__attribute__((naked, used)) void board_unhandled(void) { __asm volatile("b board_fault_entry"); }

HANDLER(NMI_Handler)
HANDLER(HardFault_Handler)
HANDLER(MemManage_Handler)
HANDLER(BusFault_Handler)
HANDLER(UsageFault_Handler)
HANDLER(SVC_Handler)
HANDLER(DebugMon_Handler)
HANDLER(PendSV_Handler)
HANDLER(SysTick_Handler)
#define IRQ_HANDLER(name) HANDLER(name##_IRQHandler)
IRQ_LIST(IRQ_HANDLER)

typedef void (*vector)(void);
#define IRQ_VECTOR(name) name##_IRQHandler,

/* clang-format off */
__attribute__((section(".isr_vector"), used)) static const vector kVectors[16 + 82] = {
    (vector)(uintptr_t)_stack_top, Reset_Handler, NMI_Handler, HardFault_Handler, MemManage_Handler, BusFault_Handler,
    UsageFault_Handler, 0, 0, 0, 0, SVC_Handler, DebugMon_Handler, 0, PendSV_Handler, SysTick_Handler,
    IRQ_LIST(IRQ_VECTOR)};
/* clang-format on */

static void copy(uint32_t *to, const uint32_t *end, const uint32_t *from) {
  while (to != end) *to++ = *from++;
}

static void zero(uint32_t *from, const uint32_t *end) {
  while (from != end) *from++ = 0;
}

/* Address 0 is an alias of the flash, so that a null pointer reads the vector table and nobody notices: close it. The
   stack needs no region: it stands at the very start of the SRAM and overflows into unmapped addresses. */
static void null_guard(void) {
  enum { kSize128MB = 26, kExecuteNever = 1 << 28, kEnable = 1, kDefaultMap = 4 };
  if ((MPU_TYPE & 0xff00u) == 0) return; /* an emulator without MPU */
  MPU_RNR = 0;
  MPU_RBAR = 0;
  MPU_RASR = kExecuteNever | kSize128MB << 1 | kEnable; /* access permission 0: none */
  MPU_CTRL = kDefaultMap | kEnable;
  __asm volatile("dsb\n isb" ::: "memory");
}

void Reset_Handler(void) {
  SCB_VTOR = (uint32_t)(uintptr_t)kVectors;
  SCB_CPACR |= 0xfu << 20; /* FPU: full access to coprocessors 10 and 11 */
  __asm volatile("dsb\n isb" ::: "memory");
  copy(_data_start, _data_end, _data_source);
  zero(_bss_start, _bss_end);
  /* both are empty unless the project uses the CCM, which some emulators lack */
  copy(_ccm_data_start, _ccm_data_end, _ccm_data_source);
  zero(_ccm_start, _ccm_end);
  rqdkm_port_stack_paint();
  SCB_CCR |= SCB_CCR_DIV_0_TRP;
  null_guard();
  for (void (**f)(void) = __init_array_start; f != __init_array_end; f++) (*f)();
  rqdkm_port_exit(main());
}
