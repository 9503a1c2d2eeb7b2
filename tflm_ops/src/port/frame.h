/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of the board protocol (docs/board.md): finding them in a byte stream, and writing them.

   offset  0    1    2     3         4       6        8            8 + length
           0xA5 0x5A type  sequence  length  ~length  payload ...  CRC-32 of bytes 2 .. 8 + length - 1
   All numbers little-endian. length is at most RQDKM_FRAME_PAYLOAD_MAX. */
#ifndef RQDKM_SRC_PORT_FRAME_H
#define RQDKM_SRC_PORT_FRAME_H

#include <stdint.h>

#ifndef RQDKM_FRAME_PAYLOAD_MAX
#define RQDKM_FRAME_PAYLOAD_MAX 512 /* bytes; two buffers of this size are the protocol's RAM */
#endif

#define RQDKM_FRAME_HEADER 8
#define RQDKM_FRAME_OVERHEAD (RQDKM_FRAME_HEADER + 4)
#define RQDKM_FRAME_MAX (RQDKM_FRAME_PAYLOAD_MAX + RQDKM_FRAME_OVERHEAD)

typedef enum {
  RQDKM_FRAME_NONE = 0,       /* more bytes are needed */
  RQDKM_FRAME_COMPLETE = 1,   /* type, sequence, length, payload and crc of the decoder are valid */
  RQDKM_FRAME_BAD_LENGTH = 2, /* a header that contradicts itself or announces too much; type and sequence valid */
  RQDKM_FRAME_BAD_CRC = 3,    /* a whole frame with the wrong CRC; type and sequence valid */
} rqdkm_frame_event;

/* After a bad frame the decoder looks for the next start inside what it already holds, so that a good frame that
   follows garbage is not lost with it. */
typedef struct {
  uint8_t bytes[RQDKM_FRAME_MAX];
  uint32_t count;    /* bytes held */
  uint32_t consumed; /* bytes of the last complete frame, dropped at the next poll */
  uint8_t type, sequence;
  uint32_t length;
  const uint8_t *payload; /* valid until the next poll */
  uint32_t crc;
} rqdkm_frame_decoder;

void rqdkm_frame_decoder_init(rqdkm_frame_decoder *decoder);

/* How many bytes the frame being received still needs at least, 1 .. RQDKM_FRAME_MAX. Reading no more than that never
   waits for bytes the host has not sent. */
uint32_t rqdkm_frame_wanted(const rqdkm_frame_decoder *decoder);

/* Where to put them; rqdkm_frame_added() then says how many came (at most rqdkm_frame_wanted()). */
uint8_t *rqdkm_frame_space(rqdkm_frame_decoder *decoder);
void rqdkm_frame_added(rqdkm_frame_decoder *decoder, uint32_t size);

/* Call until it returns RQDKM_FRAME_NONE, then read more. */
rqdkm_frame_event rqdkm_frame_poll(rqdkm_frame_decoder *decoder);

/* Completes the frame whose payload stands at frame + RQDKM_FRAME_HEADER; returns its size on the line in bytes. */
uint32_t rqdkm_frame_finish(uint8_t *frame, uint8_t type, uint8_t sequence, uint32_t length);

#endif
