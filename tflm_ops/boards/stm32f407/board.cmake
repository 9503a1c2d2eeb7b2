# SPDX-License-Identifier: Apache-2.0
# rqdkm_add_firmware(<target> [MAIN <source>]): an ELF for the STM32F407 that serves the model of rqdkm_model.h, or does
# what another source's main() says.
#
#   cmake_minimum_required(VERSION 3.20)
#   if(NOT CMAKE_TOOLCHAIN_FILE)
#     set(CMAKE_TOOLCHAIN_FILE ${CMAKE_CURRENT_SOURCE_DIR}/board/toolchain.cmake)
#   endif()
#   project(my_model C)
#   include(board/board.cmake)
#   set(RQDKM_DISPATCH ON)       # if the model has a policy.c, by which a kernel is selected before every frame
#   rqdkm_add_firmware(firmware)
#   target_sources(firmware PRIVATE model/rqdkm_model.c ...)      # rqdkm_model.h and whatever it needs
#   target_include_directories(firmware PRIVATE model)
#
# Looks for the C library (include/, src/) in RQDKM_TFLM_OPS_DIR: by default ../tflm_ops beside this file's folder, or
# the tree this file is part of.
include_guard(GLOBAL)
include(${CMAKE_CURRENT_LIST_DIR}/flags.cmake)
set(RQDKM_BOARD_DIR ${CMAKE_CURRENT_LIST_DIR})
if(NOT RQDKM_TFLM_OPS_DIR)
  if(EXISTS ${RQDKM_BOARD_DIR}/../tflm_ops/include/rqdkm/port.h)
    get_filename_component(RQDKM_TFLM_OPS_DIR ${RQDKM_BOARD_DIR}/../tflm_ops ABSOLUTE)
  else()
    get_filename_component(RQDKM_TFLM_OPS_DIR ${RQDKM_BOARD_DIR}/../.. ABSOLUTE)
  endif()
endif()

set(RQDKM_IO auto CACHE STRING "byte stream of the I/O protocol: usart, semihosting, or auto (the host may choose)")
set(RQDKM_STACK_BYTES 4096 CACHE STRING "stack size in bytes, multiple of 8")
set(RQDKM_HSE_HZ 8000000 CACHE STRING "crystal frequency in Hz")
set(RQDKM_BAUD 115200 CACHE STRING "USART1 baud rate")
option(RQDKM_USART_PA9 "USART1 on PA9/PA10 instead of PB6/PB7" OFF)
option(RQDKM_PROFILE_LAYERS "count the cycles of every layer" OFF)
option(RQDKM_WERROR "warnings in rqdkm's own sources are errors" OFF)

function(rqdkm_add_firmware target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "MAIN" "")
  if(NOT arg_MAIN)
    set(arg_MAIN ${RQDKM_BOARD_DIR}/main.c)
  endif()
  set(io_modes none usart semihosting auto) # the numbers of io.c
  list(FIND io_modes "${RQDKM_IO}" io)
  if(io LESS 1)
    message(FATAL_ERROR "RQDKM_IO is '${RQDKM_IO}'; it must be usart, semihosting or auto")
  endif()
  set(port ${RQDKM_TFLM_OPS_DIR}/src/port)
  set(own
      ${RQDKM_BOARD_DIR}/startup.c ${RQDKM_BOARD_DIR}/fault.c ${RQDKM_BOARD_DIR}/clock.c ${RQDKM_BOARD_DIR}/port.c
      ${RQDKM_BOARD_DIR}/clock_points.c ${RQDKM_BOARD_DIR}/power.c ${RQDKM_BOARD_DIR}/aras_port.c
      ${RQDKM_BOARD_DIR}/io.c ${RQDKM_BOARD_DIR}/usart.c ${RQDKM_BOARD_DIR}/semihosting.c
      ${RQDKM_BOARD_DIR}/semihosting_io.c ${RQDKM_BOARD_DIR}/syscalls.c ${arg_MAIN}
      ${port}/crc32.c ${port}/frame.c ${port}/paint.c ${port}/server.c)
  if(RQDKM_DISPATCH)
    list(APPEND own ${port}/dispatch.c)
  endif()
  set(warnings ${RQDKM_WARNING_FLAGS})
  if(RQDKM_WERROR)
    list(APPEND warnings -Werror)
  endif()
  set_source_files_properties(${own} PROPERTIES COMPILE_OPTIONS "${warnings}")

  add_executable(${target} ${own})
  set_target_properties(${target} PROPERTIES SUFFIX .elf C_STANDARD 99 C_EXTENSIONS ON)
  target_compile_options(${target} PRIVATE ${RQDKM_CPU_FLAGS} ${RQDKM_OPTIMIZE_FLAGS}
                         -ffile-prefix-map=${CMAKE_SOURCE_DIR}=.) # the same bytes wherever the project stands
  target_include_directories(${target} PRIVATE ${RQDKM_TFLM_OPS_DIR}/include ${RQDKM_TFLM_OPS_DIR}/src ${RQDKM_BOARD_DIR})
  string(JOIN " " flags ${RQDKM_CPU_FLAGS} ${RQDKM_OPTIMIZE_FLAGS})
  target_compile_definitions(
    ${target} PRIVATE RQDKM_BUILD_FLAGS="${flags}" RQDKM_HSE_HZ=${RQDKM_HSE_HZ} RQDKM_BAUD=${RQDKM_BAUD} RQDKM_IO=${io}
                      RQDKM_DISPATCH=$<BOOL:${RQDKM_DISPATCH}> RQDKM_PROFILE_LAYERS=$<BOOL:${RQDKM_PROFILE_LAYERS}>
                      $<$<BOOL:${RQDKM_USART_PA9}>:RQDKM_USART_PA9>)
  set(script ${RQDKM_BOARD_DIR}/stm32f407.ld)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${script})
  target_link_options(
    ${target} PRIVATE ${RQDKM_CPU_FLAGS} ${RQDKM_LINK_FLAGS} -T${script} -Wl,--defsym=_stack_size=${RQDKM_STACK_BYTES}
    "SHELL:-Xlinker -Map -Xlinker \"$<TARGET_FILE:${target}>.map\"") # -Wl would split a path at its commas
  target_link_libraries(${target} PRIVATE m)
endfunction()
