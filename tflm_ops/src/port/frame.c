/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

enum { kSync0 = 0xA5, kSync1 = 0x5A };

static void drop(rqdkm_frame_decoder *d, uint32_t size) {
  d->count -= size;
  memmove(d->bytes, d->bytes + size, d->count);
}

/* Drops everything before the first possible start of a frame. */
static void seek_sync(rqdkm_frame_decoder *d) {
  uint32_t i = 0;
  while (i < d->count && !(d->bytes[i] == kSync0 && (i + 1 == d->count || d->bytes[i + 1] == kSync1))) i++;
  if (i) drop(d, i);
}

void rqdkm_frame_decoder_init(rqdkm_frame_decoder *d) {
  d->count = 0;
  d->consumed = 0;
  d->type = 0;
  d->sequence = 0;
  d->length = 0;
  d->payload = d->bytes + RQDKM_FRAME_HEADER;
  d->crc = 0;
}

uint32_t rqdkm_frame_wanted(const rqdkm_frame_decoder *d) {
  if (d->count < RQDKM_FRAME_HEADER) return RQDKM_FRAME_HEADER - d->count;
  /* a header that is still here has passed its checks in rqdkm_frame_poll() */
  uint32_t total = rqdkm_get_u16(d->bytes + 4) + RQDKM_FRAME_OVERHEAD;
  return total > d->count && total <= RQDKM_FRAME_MAX ? total - d->count : 1;
}

uint8_t *rqdkm_frame_space(rqdkm_frame_decoder *d) { return d->bytes + d->count; }

void rqdkm_frame_added(rqdkm_frame_decoder *d, uint32_t size) { d->count += size; }

rqdkm_frame_event rqdkm_frame_poll(rqdkm_frame_decoder *d) {
  if (d->consumed) {
    drop(d, d->consumed);
    d->consumed = 0;
  }
  seek_sync(d);
  if (d->count < RQDKM_FRAME_HEADER) return RQDKM_FRAME_NONE;
  d->type = d->bytes[2];
  d->sequence = d->bytes[3];
  d->length = rqdkm_get_u16(d->bytes + 4);
  if ((d->length ^ rqdkm_get_u16(d->bytes + 6)) != 0xffffu || d->length > RQDKM_FRAME_PAYLOAD_MAX) {
    drop(d, 1);
    return RQDKM_FRAME_BAD_LENGTH;
  }
  if (d->count < d->length + RQDKM_FRAME_OVERHEAD) return RQDKM_FRAME_NONE;
  d->crc = rqdkm_get_u32(d->bytes + RQDKM_FRAME_HEADER + d->length);
  if (d->crc != rqdkm_crc32(0, d->bytes + 2, RQDKM_FRAME_HEADER - 2 + d->length)) {
    drop(d, 1);
    return RQDKM_FRAME_BAD_CRC;
  }
  d->consumed = d->length + RQDKM_FRAME_OVERHEAD;
  return RQDKM_FRAME_COMPLETE;
}

uint32_t rqdkm_frame_finish(uint8_t *frame, uint8_t type, uint8_t sequence, uint32_t length) {
  frame[0] = kSync0;
  frame[1] = kSync1;
  frame[2] = type;
  frame[3] = sequence;
  rqdkm_put_u16(frame + 4, length);
  rqdkm_put_u16(frame + 6, ~length & 0xffffu);
  rqdkm_put_u32(frame + RQDKM_FRAME_HEADER + length, rqdkm_crc32(0, frame + 2, RQDKM_FRAME_HEADER - 2 + length));
  return length + RQDKM_FRAME_OVERHEAD;
}
