/* SPDX-License-Identifier: Apache-2.0 */
/* The board's side of the protocol (docs/board.md): serves the model of rqdkm_model.h over the port's byte stream. */
#ifndef RQDKM_SRC_PORT_SERVER_H
#define RQDKM_SRC_PORT_SERVER_H

#include <stdint.h>

#define RQDKM_PROTOCOL_VERSION 1

/* Requests. A reply has the request's type | 0x80 and its sequence number. */
typedef enum {
  RQDKM_MSG_HELLO = 0x01,        /* -> versions, sizes, clock */
  RQDKM_MSG_STRING = 0x02,       /* which, offset -> text */
  RQDKM_MSG_TENSOR = 0x03,       /* direction, index -> shape, type, quantization, name */
  RQDKM_MSG_WRITE = 0x04,        /* input index, offset, bytes -> nothing */
  RQDKM_MSG_RUN = 0x05,          /* -> status, cycles */
  RQDKM_MSG_READ = 0x06,         /* output index, offset, size -> bytes */
  RQDKM_MSG_LAYER_CYCLES = 0x07, /* first, count -> cycles of each */
  RQDKM_MSG_MEMORY = 0x08,       /* -> sizes and high-water marks */
  RQDKM_MSG_PAINT = 0x09,        /* -> nothing; starts new high-water marks; input contents are lost */
  RQDKM_MSG_EXIT = 0x0A,         /* exit code -> nothing; the program ends */
  RQDKM_MSG_RESET = 0x0B,        /* -> nothing; the board restarts */
  RQDKM_MSG_CONTEXT = 0x0C,      /* load, memory, clock, slack -> nothing; for the frames that follow */
  RQDKM_MSG_MORPH = 0x0D,        /* -> the kernel that ran last, why, counters, what selecting cost */
  RQDKM_MSG_READY = 0xFD,        /* event: the program has started */
  RQDKM_MSG_FAULT = 0xFE,        /* event: the program has crashed and ends */
  RQDKM_MSG_ERROR = 0xFF,        /* reply: code, request type, detail */
} rqdkm_message;

typedef enum {
  RQDKM_PROTOCOL_BAD_CRC = 1,
  RQDKM_PROTOCOL_BAD_LENGTH = 2, /* of the frame */
  RQDKM_PROTOCOL_TIMEOUT = 3,    /* the rest of a frame did not come; detail: bytes that had */
  RQDKM_PROTOCOL_UNKNOWN = 4,    /* request type */
  RQDKM_PROTOCOL_BAD_SIZE = 5,   /* payload does not fit the request; detail: its size */
  RQDKM_PROTOCOL_BAD_INDEX = 6,  /* no such tensor, layer or string; detail: the index */
  RQDKM_PROTOCOL_BAD_RANGE = 7,  /* offset and size leave the tensor; detail: its bytes */
} rqdkm_protocol_error;

/* Announces READY and serves until the host sends EXIT or closes the stream; returns the exit code.
   rqdkm_port_init() must have run. */
int32_t rqdkm_server_run(void);

#endif
