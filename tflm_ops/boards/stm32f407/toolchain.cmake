# SPDX-License-Identifier: Apache-2.0
# CMake toolchain file: GNU Arm Embedded, found on the PATH or under RQDKM_TOOLCHAIN_DIR.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
find_program(RQDKM_CC arm-none-eabi-gcc HINTS ${RQDKM_TOOLCHAIN_DIR} $ENV{RQDKM_TOOLCHAIN_DIR})
if(NOT RQDKM_CC)
  message(FATAL_ERROR "arm-none-eabi-gcc not found. Debian: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi; "
                      "or set RQDKM_TOOLCHAIN_DIR to the folder that holds it.")
endif()
get_filename_component(RQDKM_CC_DIR ${RQDKM_CC} DIRECTORY)
set(CMAKE_C_COMPILER ${RQDKM_CC})
set(CMAKE_CXX_COMPILER ${RQDKM_CC_DIR}/arm-none-eabi-g++)
set(CMAKE_ASM_COMPILER ${RQDKM_CC})
set(CMAKE_OBJCOPY ${RQDKM_CC_DIR}/arm-none-eabi-objcopy CACHE FILEPATH "")
set(CMAKE_SIZE ${RQDKM_CC_DIR}/arm-none-eabi-size CACHE FILEPATH "")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
