@ SPDX-License-Identifier: Apache-2.0
@ Common part of the test firmware: reset and helpers. In front of every test program; postlude.S behind it.
@ emit: sends r0 as four bytes, little end first, over USART1. finish: ends the run with exit code r0.
@ All helpers keep r4 to r11.
  .syntax unified
  .cpu cortex-m4
  .fpu fpv4-sp-d16
  .thumb

  .equ USART1, 0x40011000
  .equ RCC, 0x40023800
  .equ FLASH_ACR, 0x40023C00
  .equ PWR_CR, 0x40007000
  .equ RTC, 0x40002800
  .equ SYSCFG, 0x40013800
  .equ EXTI, 0x40013C00
  .equ DWT_CYCCNT, 0xE0001004
  .equ SYSTICK, 0xE000E010
  .equ NVIC_ISER, 0xE000E100
  .equ NVIC_ISPR, 0xE000E200
  .equ NVIC_IPR, 0xE000E400
  .equ SCB_ICSR, 0xE000ED04
  .equ SCB_SCR, 0xE000ED10
  .equ SCB_CCR, 0xE000ED14
  .equ SCB_SHCSR, 0xE000ED24
  .equ SCB_CFSR, 0xE000ED28
  .equ STACK_TOP, 0x20020000

  .macro WRITE address, value
  ldr r0, =\address
  ldr r1, =\value
  str r1, [r0]
  .endm
  @ r4 = cycles of what stands between BEGIN and END. r6 = address of CYCCNT. Two NOPs keep the sequence apart from the loads.
  .macro BEGIN
  ldr r6, =DWT_CYCCNT
  ldr r7, [r6]
  nop
  .endm
  .macro END
  nop
  ldr r8, [r6]
  sub r4, r8, r7
  sub r4, #4 @ both NOPs and the second load, which takes 2
  .endm

  .text
  .thumb_func
emit:
  ldr r1, =USART1 + 4
  movs r2, #4
1:
  str r0, [r1]
  lsrs r0, #8
  subs r2, #1
  bne 1b
  bx lr

  .thumb_func
finish:
  ldr r1, =0x20026
  push {r1}
  sub sp, #4
  ldr r1, [sp, #4]
  str r1, [sp]
  str r0, [sp, #4]
  mov r1, sp
  movs r0, #0x20
  bkpt 0xab
  b .

  .thumb_func
  .global reset
reset:
  WRITE RCC + 0x44, 0x10         @ USART1
  WRITE RCC + 0x40, 0x10020011   @ PWR, USART2, TIM6, TIM2
  WRITE USART1 + 12, 0x200c      @ UE, TE, RE
  WRITE 0xE000ED88, 0x00f00000   @ FPU on
  WRITE 0xE000EDFC, 0x01000000   @ TRCENA
  WRITE 0xE0001000, 1
  b main
  .ltorg
  .balign 16
