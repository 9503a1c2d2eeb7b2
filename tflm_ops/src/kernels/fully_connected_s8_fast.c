/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/block.h"
#include "rqdkm/kernels/conv_common.h"
#include "rqdkm/kernels/expand.h"
#include "rqdkm/kernels/output.h"
#include "rqdkm/kernels/weights.h"

/* Lanes are shifted by less than those of convolutions: sums are longer here. */
#define LANE_SHIFT 3
#define LANE_MASK (0x00ff00ffu << LANE_SHIFT)

static void expand_quad(uint32_t *lanes, const int8_t *input) {
  const uint32_t v = rqdkm_load32(input) ^ RQDKM_SIGN_BITS;
  rqdkm_store32(lanes, (v << LANE_SHIFT) & LANE_MASK);
  rqdkm_store32(lanes + 1, (v >> (8 - LANE_SHIFT)) & LANE_MASK);
}

/* Input lanes are crossed; inputs past the last multiple of four are zero lanes, as their weights are. */
static void expand_input(uint32_t *lanes, const int8_t *input, int32_t inputs) {
  const int8_t *const end = input + (inputs & ~3);
  int8_t tail[4] = {-128, -128, -128, -128}; /* expands to zero */
  RQDKM_NO_UNROLL
  for (; input != end; input += 4, lanes += 2) {
    expand_quad(lanes, input);
  }
  if (inputs % 4 != 0) {
    memcpy(tail, input, (size_t)(inputs % 4));
    expand_quad(lanes, tail);
  }
}

/* Sum of all lanes: what an offset of 1 in every weight adds. */
static int32_t sum_lanes(const uint32_t *lanes, const uint32_t *end) {
  int32_t sum = 0;
  RQDKM_NO_UNROLL
  for (; lanes != end; lanes += 2) {
    const uint32_t first = rqdkm_load32(lanes), second = rqdkm_load32(lanes + 1);
    sum = rqdkm_smlad(second, 0x00010001u, rqdkm_smlad(first, 0x00010001u, sum));
  }
  return sum;
}

static void remove_offset(int32_t *acc, uint32_t offset) {
  for (int32_t o = 0; o < 4; o++) {
    acc[o] = (int32_t)((uint32_t)acc[o] - offset);
  }
}

/* Four outputs, all inputs (a multiple of four, `end` - lanes words): acc[o] += sum_i w[o][i] x[i]. 16 weights are one
   flash line, read once. Returns the end of the weights. */
static const int8_t *multiply_c(const int8_t *weights, const uint32_t *lanes, const uint32_t *end, int32_t *acc) {
  RQDKM_NO_UNROLL
  for (; lanes != end; lanes += 2) {
    for (int32_t o = 0; o < 4; o++) {
      const uint32_t w = rqdkm_load32(weights);
      acc[o] = rqdkm_smlad(lanes[0], rqdkm_sxtb16(w), acc[o]);
      acc[o] = rqdkm_smlad(lanes[1], rqdkm_sxtb16_ror8(w), acc[o]);
      weights += 4;
    }
  }
  return weights;
}

/* The same with weights at 4 or 2 bits, which still hold their offset: lanes of the k-th output in a word are its bits
   k * bits, or 8 more for the second two inputs, under a mask of two lanes. */
static const int8_t *multiply_packed_c(const int8_t *weights, const uint32_t *lanes, const uint32_t *end, int32_t *acc,
                                       int32_t bits) {
  const uint32_t mask = bits == 4 ? 0x000f000fu : 0x00030003u;
  RQDKM_NO_UNROLL
  for (; lanes != end; lanes += 2) {
    for (int32_t o = 0; o < 4; o++) {
      const uint32_t w = rqdkm_load32(weights + o * bits / 8 * 4) >> o * bits % 8;
      acc[o] = rqdkm_smlad(lanes[0], mask & w, acc[o]);
      acc[o] = rqdkm_smlad(lanes[1], mask & (w >> 8), acc[o]);
    }
    weights += bits * 2;
  }
  return weights;
}

#if RQDKM_ASM_BLOCKS
/* clang-format off */
/* 24 cycles for 16 MACs: two words of lanes in r2 r3, four of weights in r4-r7 */
#define RQDKM_QUAD                                            \
  "ldmia %[x]!, {r2, r3}\n ldmia %[w]!, {r4, r5, r6, r7}\n"   \
  "sxtb16 r12, r4\n smlad %[c0], r2, r12, %[c0]\n"            \
  "sxtb16 r12, r5\n smlad %[c1], r2, r12, %[c1]\n"            \
  "sxtb16 r12, r6\n smlad %[c2], r2, r12, %[c2]\n"            \
  "sxtb16 r12, r7\n smlad %[c3], r2, r12, %[c3]\n"            \
  "sxtb16 r12, r4, ror #8\n smlad %[c0], r3, r12, %[c0]\n"    \
  "sxtb16 r12, r5, ror #8\n smlad %[c1], r3, r12, %[c1]\n"    \
  "sxtb16 r12, r6, ror #8\n smlad %[c2], r3, r12, %[c2]\n"    \
  "sxtb16 r12, r7, ror #8\n smlad %[c3], r3, r12, %[c3]\n"
/* Lanes LANES times those of output C, at SHIFT in word W; the mask is in r7. */
#define RQDKM_MASKED(C, LANES, W, SHIFT) "and r12, r7, " W SHIFT "\n smlad %[" C "], " LANES ", r12, %[" C "]\n"
/* 22 cycles: r4 holds the first two outputs, r5 the others */
#define RQDKM_QUAD_4                                          \
  "ldmia %[x]!, {r2, r3}\n ldmia %[w]!, {r4, r5}\n"           \
  RQDKM_MASKED("c0", "r2", "r4", "") RQDKM_MASKED("c1", "r2", "r4", ", lsr #4")          \
  RQDKM_MASKED("c2", "r2", "r5", "") RQDKM_MASKED("c3", "r2", "r5", ", lsr #4")          \
  RQDKM_MASKED("c0", "r3", "r4", ", lsr #8") RQDKM_MASKED("c1", "r3", "r4", ", lsr #12") \
  RQDKM_MASKED("c2", "r3", "r5", ", lsr #8") RQDKM_MASKED("c3", "r3", "r5", ", lsr #12")
/* 19 cycles: all outputs in one word, loaded with that of the next quad */
#define RQDKM_QUAD_2(W)                                       \
  "ldmia %[x]!, {r2, r3}\n"                                   \
  RQDKM_MASKED("c0", "r2", W, "") RQDKM_MASKED("c1", "r2", W, ", lsr #2")                \
  RQDKM_MASKED("c2", "r2", W, ", lsr #4") RQDKM_MASKED("c3", "r2", W, ", lsr #6")        \
  RQDKM_MASKED("c0", "r3", W, ", lsr #8") RQDKM_MASKED("c1", "r3", W, ", lsr #10")       \
  RQDKM_MASKED("c2", "r3", W, ", lsr #12") RQDKM_MASKED("c3", "r3", W, ", lsr #14")
/* START, then BODY until the inputs end, two quads a turn: 4 cycles more. */
#define RQDKM_LOOP(START, BODY)                                                                               \
  __asm volatile(START "1:\n" BODY "cmp %[x], %[stop]\n bne 1b\n"                                             \
                 : [x] "+r"(x), [w] "+r"(w), [c0] "+r"(c0), [c1] "+r"(c1), [c2] "+r"(c2), [c3] "+r"(c3)       \
                 : [stop] "r"(stop)                                                                           \
                 : "r2", "r3", "r4", "r5", "r6", "r7", "r12", "cc", "memory")
/* clang-format on */

/* The same as the C for an even number of quads, at least two. */
RQDKM_INLINE const int8_t *multiply_twos(const int8_t *weights, const uint32_t *lanes, const uint32_t *end,
                                         int32_t *acc, const int32_t bits) {
  register const uint32_t *x __asm("r0") = lanes;
  register const int8_t *w __asm("r1") = weights;
  register int32_t c0 __asm("r8") = acc[0], c1 __asm("r9") = acc[1], c2 __asm("r10") = acc[2], c3 __asm("r11") = acc[3];
  register const uint32_t *stop __asm("lr") = end;
  if (bits == 8) {
    RQDKM_LOOP("", RQDKM_QUAD RQDKM_QUAD);
  } else if (bits == 4) {
    RQDKM_LOOP("mov r7, #0x000f000f\n", RQDKM_QUAD_4 RQDKM_QUAD_4);
  } else {
    RQDKM_LOOP("mov r7, #0x00030003\n", "ldmia %[w]!, {r4, r5}\n" RQDKM_QUAD_2("r4") RQDKM_QUAD_2("r5"));
  }
  acc[0] = c0;
  acc[1] = c1;
  acc[2] = c2;
  acc[3] = c3;
  return w;
}

static RQDKM_NOINLINE const int8_t *multiply(const int8_t *weights, const uint32_t *lanes, const uint32_t *end,
                                             int32_t *acc) {
  if ((end - lanes) % 4 != 0) {
    weights = multiply_c(weights, lanes, lanes + 2, acc);
    lanes += 2;
  }
  return lanes == end ? weights : multiply_twos(weights, lanes, end, acc, 8);
}

static RQDKM_NOINLINE const int8_t *multiply_packed(const int8_t *weights, const uint32_t *lanes, const uint32_t *end,
                                                    int32_t *acc, int32_t bits) {
  if ((end - lanes) % 4 != 0) {
    weights = multiply_packed_c(weights, lanes, lanes + 2, acc, bits);
    lanes += 2;
  }
  if (lanes == end) {
    return weights;
  }
  return bits == 4 ? multiply_twos(weights, lanes, end, acc, 4) : multiply_twos(weights, lanes, end, acc, 2);
}
#else
#define multiply multiply_c
#define multiply_packed multiply_packed_c
#endif

/* Requantize and store the first `count` of four outputs. */
static void store(int8_t *output, int32_t count, const int32_t *acc, const rqdkm_packed_quant *quant,
                  const rqdkm_pair_quant *pairs) {
  const rqdkm_output_quant *const q[4] = {pairs[0].output, pairs[0].output + 1, pairs[1].output, pairs[1].output + 1};
  if (count == 4 && quant->form == RQDKM_REQUANTIZE_SHIFT) {
    for (int32_t i = 0; i < 4; i++) {
      output[i] = rqdkm_quantize_output(acc[i], RQDKM_REQUANTIZE_SHIFT, q[i], LANE_SHIFT);
    }
  } else if (count == 4 && quant->form == RQDKM_REQUANTIZE_AWAY_SHIFT) {
    for (int32_t i = 0; i < 4; i++) {
      output[i] = rqdkm_quantize_output(acc[i], RQDKM_REQUANTIZE_AWAY_SHIFT, q[i], LANE_SHIFT);
    }
  } else {
    RQDKM_NO_UNROLL
    for (int32_t i = 0; i < count; i++) {
      output[i] = rqdkm_quantize_output(acc[i], quant->form, q[i], LANE_SHIFT);
    }
  }
}

int32_t rqdkm_fully_connected_s8_fast_scratch_bytes(const rqdkm_fully_connected_params *params) {
  return rqdkm_round_up(params->inputs, 4) * 2;
}

int32_t rqdkm_fully_connected_s8_fast(const rqdkm_fully_connected_params *params, const rqdkm_packed_quant *quant,
                                      int32_t batches, const int8_t *input, const int8_t *weights, int8_t *output,
                                      void *scratch) {
  uint32_t *const lanes = (uint32_t *)scratch;
  const uint32_t *const end = lanes + rqdkm_round_up(params->inputs, 4) / 2;
  if (params->inputs < 1 || params->weight_offset != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  for (int32_t batch = 0; batch < batches; batch++) {
    const int8_t *w = weights;
    expand_input(lanes, input, params->inputs);
    const int32_t sum = quant->bits != 0 ? sum_lanes(lanes, end) : 0;
    for (int32_t o = 0; o < params->outputs; o += 4) {
      const rqdkm_pair_quant *const pairs = quant->pairs + o / 2;
      const int32_t bits = rqdkm_pair_bits(quant->bits, o / 2);
      int32_t acc[4] = {pairs[0].bias[0], pairs[0].bias[1], pairs[1].bias[0], pairs[1].bias[1]};
      if (bits == 8) {
        w = multiply(w, lanes, end, acc);
      } else {
        remove_offset(acc, (uint32_t)sum << (bits - 1));
        w = multiply_packed(w, lanes, end, acc, bits);
      }
      store(output + o, rqdkm_min(4, params->outputs - o), acc, quant, pairs);
    }
    input += params->inputs;
    output += params->outputs;
  }
  rqdkm_clamp_s8(output - batches * params->outputs, batches * params->outputs, &params->clamp);
  return RQDKM_OK;
}
