/* SPDX-License-Identifier: Apache-2.0 */
#include "server.h"

#include <stdbool.h>
#include <string.h>

#include "bytes.h"
#include "dispatch.h"
#include "fault.h"
#include "frame.h"
#include "paint.h"
#include "rqdkm/port.h"
#include "rqdkm_model.h"

#ifndef RQDKM_BUILD_FLAGS
#define RQDKM_BUILD_FLAGS "unknown" /* the build passes the compiler flags, so that a report can show them */
#endif
#ifndef RQDKM_PROFILE_LAYERS
#define RQDKM_PROFILE_LAYERS 0
#endif
#ifndef RQDKM_DISPATCH
#define RQDKM_DISPATCH 0 /* the model has a policy.c */
#endif

enum { kByteTimeoutMs = 500, kIdleTimeoutMs = 1000 };

static uint8_t tx[RQDKM_FRAME_MAX];
static rqdkm_frame_decoder rx;

/* The last request carried out, to recognise one that the host repeats because the reply got lost: repeating must not
   run the model twice, its inputs may be gone. */
static struct {
  bool valid;
  uint8_t sequence;
  uint32_t crc, reply_size;
} last;

static uint8_t *payload(void) { return tx + RQDKM_FRAME_HEADER; }

static void send(uint32_t size) { (void)rqdkm_port_write(tx, size); }

static uint32_t finish(uint8_t type, uint8_t sequence, const uint8_t *end) {
  return rqdkm_frame_finish(tx, type, sequence, (uint32_t)(end - payload()));
}

static uint32_t error(const rqdkm_frame_decoder *request, rqdkm_protocol_error code, uint32_t detail) {
  uint8_t *p = rqdkm_put_u8(payload(), (uint32_t)code);
  p = rqdkm_put_u8(p, request->type);
  p = rqdkm_put_u32(p, detail);
  return finish(RQDKM_MSG_ERROR, request->sequence, p);
}

static uint32_t reply(const rqdkm_frame_decoder *request, const uint8_t *end) {
  return finish((uint8_t)(request->type | 0x80u), request->sequence, end);
}

static uint32_t hello(const rqdkm_frame_decoder *request) {
  uint8_t *p = rqdkm_put_u16(payload(), RQDKM_PROTOCOL_VERSION);
  p = rqdkm_put_u16(p, RQDKM_FRAME_PAYLOAD_MAX);
  p = rqdkm_put_u32(p, rqdkm_model_id);
  p = rqdkm_put_u32(p, rqdkm_port_clock_hz());
  p = rqdkm_put_u8(p, (uint32_t)rqdkm_port_clock_source());
  p = rqdkm_put_u8(p,
                   (rqdkm_port_has_cycles() ? 1u : 0u) | (RQDKM_PROFILE_LAYERS ? 2u : 0u) | (RQDKM_DISPATCH ? 4u : 0u));
  p = rqdkm_put_u16(p, rqdkm_model_input_count);
  p = rqdkm_put_u16(p, rqdkm_model_output_count);
  p = rqdkm_put_u16(p, rqdkm_model_layer_count);
  return reply(request, p);
}

static uint32_t string(const rqdkm_frame_decoder *request) {
  if (request->length != 3) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  const char *const texts[] = {rqdkm_port_name(), rqdkm_model_name, RQDKM_BUILD_FLAGS, __VERSION__};
  uint32_t which = request->payload[0], offset = rqdkm_get_u16(request->payload + 1);
  if (which >= sizeof texts / sizeof texts[0]) return error(request, RQDKM_PROTOCOL_BAD_INDEX, which);
  uint32_t size = (uint32_t)strlen(texts[which]);
  if (offset > size) return error(request, RQDKM_PROTOCOL_BAD_RANGE, size);
  uint32_t part = size - offset < RQDKM_FRAME_PAYLOAD_MAX ? size - offset : RQDKM_FRAME_PAYLOAD_MAX;
  memcpy(payload(), texts[which] + offset, part);
  return reply(request, payload() + part);
}

static uint32_t tensor(const rqdkm_frame_decoder *request) {
  if (request->length != 3) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  bool output = request->payload[0] != 0;
  uint32_t index = rqdkm_get_u16(request->payload + 1);
  if (index >= (output ? rqdkm_model_output_count : rqdkm_model_input_count))
    return error(request, RQDKM_PROTOCOL_BAD_INDEX, index);
  const rqdkm_tensor_info *info = output ? &rqdkm_model_outputs[index] : &rqdkm_model_inputs[index];
  uint32_t scale;
  memcpy(&scale, &info->scale, sizeof scale);
  uint8_t *p = rqdkm_put_u32(payload(), info->bytes);
  p = rqdkm_put_u32(p, scale);
  p = rqdkm_put_u32(p, (uint32_t)info->zero_point);
  p = rqdkm_put_u8(p, info->dtype);
  p = rqdkm_put_u8(p, info->rank);
  for (uint32_t i = 0; i < sizeof info->shape / sizeof info->shape[0]; i++)
    p = rqdkm_put_u32(p, i < info->rank ? (uint32_t)info->shape[i] : 0);
  uint32_t room = RQDKM_FRAME_PAYLOAD_MAX - (uint32_t)(p - payload());
  uint32_t name = (uint32_t)strlen(info->name);
  if (name > room) name = room;
  memcpy(p, info->name, name);
  return reply(request, p + name);
}

static uint32_t write_input(const rqdkm_frame_decoder *request) {
  enum { kHead = 6 };
  if (request->length < kHead) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  uint32_t index = rqdkm_get_u16(request->payload), offset = rqdkm_get_u32(request->payload + 2);
  uint32_t size = request->length - kHead;
  if (index >= rqdkm_model_input_count) return error(request, RQDKM_PROTOCOL_BAD_INDEX, index);
  uint32_t bytes = rqdkm_model_inputs[index].bytes;
  if (offset > bytes || size > bytes - offset) return error(request, RQDKM_PROTOCOL_BAD_RANGE, bytes);
  memcpy((uint8_t *)rqdkm_model_input(index) + offset, request->payload + kHead, size);
  return reply(request, payload());
}

static uint32_t run(const rqdkm_frame_decoder *request) {
  if (request->length != 0) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  uint32_t start = rqdkm_port_cycles();
#if RQDKM_DISPATCH
  rqdkm_dispatch_frame();
#endif
  int32_t status = rqdkm_model_run();
  uint32_t cycles = rqdkm_port_cycles() - start;
#if RQDKM_DISPATCH
  rqdkm_dispatch_done(cycles - rqdkm_dispatch_cycles());
#endif
  uint8_t *p = rqdkm_put_u32(payload(), (uint32_t)status);
  return reply(request, rqdkm_put_u32(p, cycles));
}

static uint32_t read_output(const rqdkm_frame_decoder *request) {
  if (request->length != 8) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  uint32_t index = rqdkm_get_u16(request->payload), offset = rqdkm_get_u32(request->payload + 2);
  uint32_t size = rqdkm_get_u16(request->payload + 6);
  if (index >= rqdkm_model_output_count) return error(request, RQDKM_PROTOCOL_BAD_INDEX, index);
  uint32_t bytes = rqdkm_model_outputs[index].bytes;
  if (size > RQDKM_FRAME_PAYLOAD_MAX || offset > bytes || size > bytes - offset)
    return error(request, RQDKM_PROTOCOL_BAD_RANGE, bytes);
  memcpy(payload(), (const uint8_t *)rqdkm_model_output(index) + offset, size);
  return reply(request, payload() + size);
}

static uint32_t layer_cycles(const rqdkm_frame_decoder *request) {
  if (request->length != 4) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  uint32_t first = rqdkm_get_u16(request->payload), count = rqdkm_get_u16(request->payload + 2);
  uint32_t available = RQDKM_PROFILE_LAYERS ? rqdkm_model_layer_count : 0;
  if (first > available || count > available - first || count > RQDKM_FRAME_PAYLOAD_MAX / 4)
    return error(request, RQDKM_PROTOCOL_BAD_RANGE, available);
  uint8_t *p = payload();
  for (uint32_t i = 0; i < count; i++) p = rqdkm_put_u32(p, rqdkm_layer_cycles[first + i]);
  return reply(request, p);
}

static uint32_t memory(const rqdkm_frame_decoder *request) {
  rqdkm_port_memory m;
  rqdkm_port_memory_get(&m);
  uint32_t arena = rqdkm_model_arena_bytes();
  const uint32_t fields[] = {m.stack,   m.stack_used, arena,       rqdkm_paint_used(rqdkm_model_arena(), arena),
                             m.data,    m.bss,        m.workspace, m.code,
                             m.weights, m.flash};
  uint8_t *p = payload();
  for (uint32_t i = 0; i < sizeof fields / sizeof fields[0]; i++) p = rqdkm_put_u32(p, fields[i]);
  return reply(request, p);
}

#if RQDKM_DISPATCH
static uint32_t context(const rqdkm_frame_decoder *request) {
  float numbers[4];
  if (request->length != sizeof numbers) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  memcpy(numbers, request->payload, sizeof numbers);
  rqdkm_dispatch_given(numbers[0], numbers[1], numbers[2], numbers[3]);
  return reply(request, payload());
}

static uint32_t morph(const rqdkm_frame_decoder *request) {
  if (request->length != 0) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
  const rqdkm_morph *found = rqdkm_dispatch_morph();
  uint8_t *p = rqdkm_put_u8(payload(), (uint32_t)found->kernels);
  p = rqdkm_put_u8(p, (uint32_t)found->safe);
  p = rqdkm_put_u8(p, (uint32_t)found->selected);
  p = rqdkm_put_u8(p, (uint32_t)found->last);
  p = rqdkm_put_u32(p, found->frames);
  p = rqdkm_put_u32(p, found->fallbacks);
  return reply(request, rqdkm_put_u32(p, rqdkm_dispatch_cycles()));
}
#endif

static void paint(void) {
  rqdkm_paint(rqdkm_model_arena(), rqdkm_model_arena_bytes());
  rqdkm_port_stack_paint();
}

/* Carries out one request; returns the size of the reply in tx. */
static uint32_t serve(const rqdkm_frame_decoder *request) {
  switch (request->type) {
    case RQDKM_MSG_HELLO:
      return hello(request);
    case RQDKM_MSG_STRING:
      return string(request);
    case RQDKM_MSG_TENSOR:
      return tensor(request);
    case RQDKM_MSG_WRITE:
      return write_input(request);
    case RQDKM_MSG_RUN:
      return run(request);
    case RQDKM_MSG_READ:
      return read_output(request);
    case RQDKM_MSG_LAYER_CYCLES:
      return layer_cycles(request);
    case RQDKM_MSG_MEMORY:
      return memory(request);
    case RQDKM_MSG_PAINT:
      paint();
      return reply(request, payload());
#if RQDKM_DISPATCH
    case RQDKM_MSG_CONTEXT:
      return context(request);
    case RQDKM_MSG_MORPH:
      return morph(request);
#endif
    case RQDKM_MSG_EXIT:
      if (request->length != 4) return error(request, RQDKM_PROTOCOL_BAD_SIZE, request->length);
      return reply(request, payload());
    case RQDKM_MSG_RESET:
      return reply(request, payload());
    default:
      return error(request, RQDKM_PROTOCOL_UNKNOWN, request->type);
  }
}

/* Sends the reply to a good frame. Returns true when it was EXIT, with the code in *exit_code. */
static bool answer(const rqdkm_frame_decoder *request, int32_t *exit_code) {
  bool repeated = last.valid && last.sequence == request->sequence && last.crc == request->crc;
  if (!repeated) {
    last.reply_size = serve(request);
    last.valid = true;
    last.sequence = request->sequence;
    last.crc = request->crc;
  }
  send(last.reply_size);
  if (request->type == RQDKM_MSG_RESET) rqdkm_port_restart();
  if (request->type != RQDKM_MSG_EXIT || request->length != 4) return false;
  *exit_code = (int32_t)rqdkm_get_u32(request->payload);
  return true;
}

/* A broken frame: tx is overwritten, so the reply of the last request can no longer be repeated from it... unless it is
   rebuilt. Errors about frames are therefore built in a small buffer of their own. */
static void complain(const rqdkm_frame_decoder *request, rqdkm_protocol_error code, uint32_t detail) {
  uint8_t frame[RQDKM_FRAME_OVERHEAD + 6];
  uint8_t *p = rqdkm_put_u8(frame + RQDKM_FRAME_HEADER, (uint32_t)code);
  p = rqdkm_put_u8(p, request->type);
  rqdkm_put_u32(p, detail);
  (void)rqdkm_port_write(frame, rqdkm_frame_finish(frame, RQDKM_MSG_ERROR, request->sequence, 6));
}

int32_t rqdkm_server_run(void) {
  int32_t exit_code = 0;
  rqdkm_frame_decoder_init(&rx);
  last.valid = false;
#if RQDKM_DISPATCH
  rqdkm_dispatch_init();
#endif
  paint();
  uint8_t *p = rqdkm_put_u16(payload(), RQDKM_PROTOCOL_VERSION);
  send(finish(RQDKM_MSG_READY, 0, rqdkm_put_u32(p, rqdkm_model_id)));
  for (;;) {
    int32_t got =
        rqdkm_port_read(rqdkm_frame_space(&rx), rqdkm_frame_wanted(&rx), rx.count ? kByteTimeoutMs : kIdleTimeoutMs);
    if (got < 0) return exit_code;
    if (got == 0 && rx.count) {
      complain(&rx, RQDKM_PROTOCOL_TIMEOUT, rx.count);
      rqdkm_frame_decoder_init(&rx);
      continue;
    }
    rqdkm_frame_added(&rx, (uint32_t)got);
    for (;;) {
      rqdkm_frame_event event = rqdkm_frame_poll(&rx);
      if (event == RQDKM_FRAME_NONE) break;
      if (event == RQDKM_FRAME_COMPLETE) {
        if (answer(&rx, &exit_code)) return exit_code;
      } else {
        complain(&rx, event == RQDKM_FRAME_BAD_CRC ? RQDKM_PROTOCOL_BAD_CRC : RQDKM_PROTOCOL_BAD_LENGTH, rx.length);
      }
    }
  }
}

static void report_word(const char *name, uint32_t value) {
  static const char kDigits[] = "0123456789abcdef";
  uint8_t text[9];
  for (uint32_t i = 0; i < 8; i++) text[i] = (uint8_t)kDigits[(value >> (28 - 4 * i)) & 15u];
  text[8] = ' ';
  (void)rqdkm_port_write((const uint8_t *)name, (uint32_t)strlen(name));
  (void)rqdkm_port_write(text, sizeof text);
}

void rqdkm_fault_report(const rqdkm_fault *fault) {
  /* whatever half frame the crash cut off ends at the line break; the decoder on the host finds the next start */
  report_word("\r\nrqdkm fault: exception=", fault->exception);
  report_word("pc=", fault->pc);
  report_word("lr=", fault->lr);
  report_word("sp=", fault->sp);
  report_word("cfsr=", fault->cfsr);
  report_word("hfsr=", fault->hfsr);
  report_word("mmfar=", fault->mmfar);
  report_word("bfar=", fault->bfar);
  (void)rqdkm_port_write((const uint8_t *)"\r\n", 2);
  const uint32_t words[] = {fault->exception,  fault->r0,   fault->r1,   fault->r2,    fault->r3,  fault->r12,
                            fault->lr,         fault->pc,   fault->xpsr, fault->r4,    fault->r5,  fault->r6,
                            fault->r7,         fault->r8,   fault->r9,   fault->r10,   fault->r11, fault->sp,
                            fault->exc_return, fault->cfsr, fault->hfsr, fault->mmfar, fault->bfar};
  uint8_t *p = payload();
  for (uint32_t i = 0; i < sizeof words / sizeof words[0]; i++) p = rqdkm_put_u32(p, words[i]);
  for (uint32_t i = 0; i < RQDKM_FAULT_TRACE; i++) p = rqdkm_put_u32(p, fault->trace[i]);
  send(finish(RQDKM_MSG_FAULT, 0, p));
}
