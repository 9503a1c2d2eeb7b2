@ SPDX-License-Identifier: Apache-2.0
@ Behind every test program: handlers that it did not define, and the vector table.
  .text
  .ltorg
  .ifndef hard_fault
  .thumb_func
hard_fault: @ CFSR, HFSR, BFAR, stacked PC, then the end
  tst lr, #4
  ite eq
  mrseq r4, msp
  mrsne r4, psp
  ldr r5, =SCB_CFSR
  ldr r0, [r5]
  bl emit
  ldr r0, [r5, #4]
  bl emit
  ldr r0, [r5, #16]
  bl emit
  ldr r0, [r4, #24]
  bl emit
  movs r0, #77
  b finish
  .ltorg
  .endif
  .thumb_func
unexpected:
  movs r0, #78
  b finish
  .irp name, rtc_handler, exti0_handler, tim3_handler, exti15_handler, tim5_handler, nmi, mem_fault, bus_fault, usage_fault, svc_handler, pendsv_handler, systick_handler, tim2_handler, usart1_handler, tim6_handler, irq_handler
  .ifndef \name
  .set \name, unexpected
  .endif
  .endr

  .section .vectors, "a"
  .word STACK_TOP, reset + 1, nmi + 1, hard_fault + 1, mem_fault + 1, bus_fault + 1, usage_fault + 1
  .word 0, 0, 0, 0, svc_handler + 1, unexpected + 1, 0, pendsv_handler + 1, systick_handler + 1
  .rept 3
  .word unexpected + 1
  .endr
  .word rtc_handler + 1       @ 3
  .word unexpected + 1, unexpected + 1
  .word exti0_handler + 1     @ 6
  .rept 21
  .word unexpected + 1
  .endr
  .word tim2_handler + 1      @ 28
  .word tim3_handler + 1      @ 29
  .rept 7
  .word unexpected + 1
  .endr
  .word usart1_handler + 1    @ 37
  .word unexpected + 1, unexpected + 1
  .word exti15_handler + 1    @ 40
  .rept 9
  .word unexpected + 1
  .endr
  .word tim5_handler + 1      @ 50
  .rept 3
  .word unexpected + 1
  .endr
  .word tim6_handler + 1      @ 54
  .rept 27
  .word irq_handler + 1       @ 55 to 81
  .endr
