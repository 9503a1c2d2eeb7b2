/* SPDX-License-Identifier: Apache-2.0 */
/* Painting: fill memory with a pattern, run, and see what is no longer the pattern. The pattern depends on the
   position, so that data which happens to equal it at more than a byte or two is very unlikely. */
#ifndef RQDKM_SRC_PORT_PAINT_H
#define RQDKM_SRC_PORT_PAINT_H

#include <stdint.h>

void rqdkm_paint(volatile uint8_t *memory, uint32_t size);
/* Bytes from the start that still hold the pattern: 0 .. size. What a stack that grows downwards left unused. */
uint32_t rqdkm_paint_clean_head(const volatile uint8_t *memory, uint32_t size);
/* Bytes up to and including the last one changed: 0 .. size. What an arena that is filled upwards has used. */
uint32_t rqdkm_paint_used(const volatile uint8_t *memory, uint32_t size);

#endif
