/* SPDX-License-Identifier: Apache-2.0 */
/* Little-endian fields of protocol payloads, independent of the machine's own byte order and alignment. */
#ifndef RQDKM_SRC_PORT_BYTES_H
#define RQDKM_SRC_PORT_BYTES_H

#include <stdint.h>

static inline uint8_t *rqdkm_put_u8(uint8_t *p, uint32_t v) {
  *p = (uint8_t)v;
  return p + 1;
}

static inline uint8_t *rqdkm_put_u16(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
  return p + 2;
}

static inline uint8_t *rqdkm_put_u32(uint8_t *p, uint32_t v) {
  return rqdkm_put_u16(rqdkm_put_u16(p, v & 0xffffu), v >> 16);
}

static inline uint32_t rqdkm_get_u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }

static inline uint32_t rqdkm_get_u32(const uint8_t *p) { return rqdkm_get_u16(p) | rqdkm_get_u16(p + 2) << 16; }

#endif
