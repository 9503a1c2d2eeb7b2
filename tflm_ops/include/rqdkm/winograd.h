/* SPDX-License-Identifier: Apache-2.0 */
/* Exact integer Winograd convolution, 3x3, stride 1 and (f4x4s2) 2, int8 x int8 -> int8, bit-exact with TFLite.
 *
 * F(m, 3) computes m outputs of a 3-tap filter with m + 2 products instead of 3 m:
 *     Y = A^T [ (G g) . (B^T d) ]        (Winograd 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural
 *                                         Networks", 2016, for the matrices)
 * The rows of G are scaled to integers, so that everything is integer arithmetic modulo 2^32; what comes out is the
 * accumulator times a known odd number times a power of two, undone exactly by one multiplication (see
 * docs/winograd.md for the derivation and the bounds, rqdkm_tvm/kernels/conv2d_winograd.py for the proof per layer).
 *
 * f4x4: 4x4 outputs, 36 positions (of 144 products);  f2x2: 2x2 outputs, 16 of 36;  f4x1: 4 outputs along x, 18 of 36;
 * f4x4s2: 4x4 outputs of stride 2, 81 of 144.
 *
 * Layouts, in 32-bit words of two 16-bit channels; a block is 16 channels = 8 words; position p < P:
 *     V[group of 4 tiles][block][p][8][4 tiles]    transformed input of one strip of tiles
 *     U[block][p][8][2 output channels]            transformed weights of one pair of output channels
 *     M[p][2 output channels][4 tiles]             int32 products, one group, one pair
 * or, for maps of few tiles, with 2 tiles and 4 output channels in each other's place: V[..][2 tiles], U[..][4 output
 * channels], M[p][2 tiles][4 output channels].
 * Word k of a block's 8 holds channels (4j, 4j+2) for k = 2j and (4j+1, 4j+3) for k = 2j+1. */
#ifndef RQDKM_WINOGRAD_H
#define RQDKM_WINOGRAD_H

#include "rqdkm/elementwise.h"
#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one output channel needs to become int8. x stands for the transformed sum, acc for TFLite's accumulator. */
typedef struct {
  int32_t bias;       /* (bias - (zp_in + 128) sum w) times the weight of position (1, 1), modulo 2^32 */
  uint32_t scale;     /* FLOOR, AWAY: acc << k = x * scale for the largest power of two in x; WIDE: the odd inverse */
  int32_t multiplier; /* TFLite's, in [2^30, 2^31), or 0 */
  int32_t offset;     /* FLOOR, AWAY: 2^(k-2) + 2^15 + (zp_out << 16); WIDE: zp_out */
  int32_t away;       /* AWAY: 2^(k-1), taken off when acc < 0; WIDE: TFLite's shift */
  int32_t wide;       /* this channel needs rqdkm_winograd_params.finish_wide */
} rqdkm_winograd_channel;

/* Where a tile's outputs go. */
typedef struct {
  int32_t offset;    /* in int8 elements from the start of the output */
  int8_t rows, cols; /* valid outputs of the tile, after pooling */
  int16_t whole;     /* of the first tile of a call of rqdkm_winograd_output: all tiles of the call are whole */
} rqdkm_winograd_place;

/* Finishes up to 4 tiles (f4x1) or up to 8 (2-D) of one output channel: inverse transform, requantize, pool, store.
 * m: M of one or two groups at the channel's first tile, ruined by the call; place: one per tile; out: address of
 * (0, 0, channel). Reads the output's width and channels, the clamp and pool of params. */
struct rqdkm_winograd_params;
typedef void (*rqdkm_winograd_output)(const struct rqdkm_winograd_params *params, uint32_t *m,
                                      const rqdkm_winograd_place *place, int32_t tiles,
                                      const rqdkm_winograd_channel *channel, int8_t *out);

/* Fills U for a pair of output channels from int8 weights [2][channels / 4][3][3][4]; u: the first one's first word. */
typedef void (*rqdkm_winograd_weights)(const int8_t *weights, int32_t channels, uint32_t *u);

typedef struct rqdkm_winograd_params {
  rqdkm_dims input, output; /* input.c: a multiple of 4 */
  int32_t pad_top, pad_left;
  int32_t input_zero_point;
  int32_t strip;                     /* 2-D: groups of 4 tiles per strip; f4x1: output rows per strip; >= 1 */
  rqdkm_clamp clamp;                 /* read by the clamp and wide forms only */
  rqdkm_winograd_weights transform;  /* NULL: the weights are U already, for all pairs one after the other */
  rqdkm_winograd_output finish;      /* one of the functions below */
  rqdkm_winograd_output finish_wide; /* for channels marked wide; may be NULL when there is none */
  const uint8_t *bits; /* of each channel pair's weights, if transformed on line; see rqdkm_packed_quant */
  /* Epilogues of the 2-D kernels, one at most. */
  int32_t pool;                       /* 2 with a pooled finish: output is what 2x2 pooling, stride 2, leaves; else 1 */
  const rqdkm_add_linear_params *add; /* input 1 is the convolution, input 2 the residual; NULL: nothing is added */
} rqdkm_winograd_params;

/* Convolutions. input (H, W, Cin), output (H', W', Cout), NHWC int8; weights: int8 [Cout][Cin / 4][3][3][4], packed
 * pair by pair (kernels/weights.h) where bits says so, or U, word aligned, for an even number of output channels, the
 * added one anything; residual: as output, NULL unless params->add, and output may be the same memory; scratch:
 * *_scratch_bytes, word aligned, contents undefined. Return 0, or RQDKM_ERROR_ARGUMENT.
 * few: groups of 2 tiles and 4 output channels instead of 4 and 2; transform must be rqdkm_winograd_f4x4_few_weights.
 */
int32_t rqdkm_conv2d_s8_winograd_f4x4(const rqdkm_winograd_params *params, const int8_t *input, const int8_t *residual,
                                      const void *weights, const rqdkm_winograd_channel *channels, int8_t *output,
                                      void *scratch);
int32_t rqdkm_conv2d_s8_winograd_f4x4_scratch_bytes(const rqdkm_winograd_params *params);
int32_t rqdkm_conv2d_s8_winograd_f4x4s2(const rqdkm_winograd_params *params, const int8_t *input,
                                        const int8_t *residual, const void *weights,
                                        const rqdkm_winograd_channel *channels, int8_t *output, void *scratch);
int32_t rqdkm_conv2d_s8_winograd_f4x4s2_scratch_bytes(const rqdkm_winograd_params *params);
int32_t rqdkm_conv2d_s8_winograd_f4x4_few(const rqdkm_winograd_params *params, const int8_t *input,
                                          const int8_t *residual, const void *weights,
                                          const rqdkm_winograd_channel *channels, int8_t *output, void *scratch);
int32_t rqdkm_conv2d_s8_winograd_f4x4_few_scratch_bytes(const rqdkm_winograd_params *params);
int32_t rqdkm_conv2d_s8_winograd_f2x2(const rqdkm_winograd_params *params, const int8_t *input, const int8_t *residual,
                                      const void *weights, const rqdkm_winograd_channel *channels, int8_t *output,
                                      void *scratch);
int32_t rqdkm_conv2d_s8_winograd_f2x2_scratch_bytes(const rqdkm_winograd_params *params);
int32_t rqdkm_conv2d_s8_winograd_f4x1(const rqdkm_winograd_params *params, const int8_t *input, const void *weights,
                                      const rqdkm_winograd_channel *channels, int8_t *output, void *scratch);
int32_t rqdkm_conv2d_s8_winograd_f4x1_scratch_bytes(const rqdkm_winograd_params *params);

/* Weight transforms on line. */
void rqdkm_winograd_f4x4_weights(const int8_t *weights, int32_t channels, uint32_t *u);
void rqdkm_winograd_f4x4s2_weights(const int8_t *weights, int32_t channels, uint32_t *u);
void rqdkm_winograd_f4x4_few_weights(const int8_t *weights, int32_t channels, uint32_t *u);
void rqdkm_winograd_f2x2_weights(const int8_t *weights, int32_t channels, uint32_t *u);
void rqdkm_winograd_f4x1_weights(const int8_t *weights, int32_t channels, uint32_t *u);

/* Output stages, one per form of conv_winograd_output.h: floor and away saturate to int8 and ignore the clamp. Pooled
 * forms store 2x2 maxima. */
#define RQDKM_WINOGRAD_OUTPUT(name)                                                                             \
  void name(const rqdkm_winograd_params *params, uint32_t *m, const rqdkm_winograd_place *place, int32_t tiles, \
            const rqdkm_winograd_channel *channel, int8_t *out)
#define RQDKM_WINOGRAD_OUTPUT_FORMS(name)               \
  RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_##name##_floor); \
  RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_##name##_away);  \
  RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_##name##_clamp); \
  RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_##name##_wide)
RQDKM_WINOGRAD_OUTPUT_FORMS(f4x4_output);
RQDKM_WINOGRAD_OUTPUT_FORMS(f4x4_pool);
RQDKM_WINOGRAD_OUTPUT_FORMS(f4x4s2_output);
RQDKM_WINOGRAD_OUTPUT_FORMS(f2x2_output);
RQDKM_WINOGRAD_OUTPUT_FORMS(f2x2_pool);
RQDKM_WINOGRAD_OUTPUT_FORMS(f4x1_output);

#ifdef __cplusplus
}
#endif
#endif
