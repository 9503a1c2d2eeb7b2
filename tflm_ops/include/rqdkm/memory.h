/* SPDX-License-Identifier: Apache-2.0 */
/* Copy and fill, four words at a time. newlib-nano's memcpy and memset go byte by byte, five times slower. */
#ifndef RQDKM_MEMORY_H
#define RQDKM_MEMORY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The buffers do not overlap; any alignment, fastest when both are word aligned. */
void rqdkm_copy(void *to, const void *from, int32_t bytes);
void rqdkm_fill(void *to, int32_t value, int32_t bytes);

#ifdef __cplusplus
}
#endif
#endif
