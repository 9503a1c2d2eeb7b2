/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RQDKM_SRC_PORT_CRC32_H
#define RQDKM_SRC_PORT_CRC32_H

#include <stdint.h>

/* CRC-32 of IEEE 802.3 (polynomial 0x04C11DB7 reflected, initial value and final XOR 0xFFFFFFFF), as zlib's crc32():
   continue with the previous result in crc, start with 0. */
uint32_t rqdkm_crc32(uint32_t crc, const uint8_t *data, uint32_t size);

#endif
