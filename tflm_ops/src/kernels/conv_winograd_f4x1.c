/* SPDX-License-Identifier: Apache-2.0 */
/* F(4, 3) along x, direct along y: 18 products for 4 outputs of 9 taps, and little scratch.
 *
 * The sum over the three kernel rows is part of the product: rows of V lie next to each other, so output row y reads
 * rows y, y + 1, y + 2 as 3 x blocks consecutive blocks. Narrow maps have fewer than four tiles in a row: then the
 * strip is cut into bands of rows, which take the remaining lanes. V[column of tile groups][row][block][p][8][4 lanes],
 * lane = band * lanes_x + tile column within the group */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "conv_winograd_pair.h"
#include "rqdkm/winograd.h"

enum { P = 6, TILE = 4, TAPS = 3 };

typedef struct {
  int32_t tiles_x;                 /* per row */
  int32_t lanes_x, bands, columns; /* tiles of a row within a group; 4 / lanes_x; groups side by side */
  int32_t blocks;                  /* of 16 input channels */
  int32_t rows;                    /* output rows of a band in a full strip */
  int32_t v_row, v_column;         /* words of V per row and per column of groups */
  int32_t v_words, u_offset, u_words, row_bytes;
} geometry;

static int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }
static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t max32(int32_t a, int32_t b) { return a > b ? a : b; }

static geometry measure(const rqdkm_winograd_params *p) {
  geometry g;
  g.tiles_x = ceil_div(p->output.w, TILE);
  g.lanes_x = g.tiles_x < 3 ? g.tiles_x : 4;
  g.bands = 4 / g.lanes_x;
  g.columns = ceil_div(g.tiles_x, g.lanes_x);
  g.blocks = ceil_div(p->input.c, 16);
  g.rows = ceil_div(min32(p->strip, p->output.h), g.bands);
  g.v_row = g.blocks * P * RQDKM_WINOGRAD_BLOCK_V;
  g.v_column = (g.rows + TAPS - 1) * g.v_row;
  g.v_words = g.columns * g.v_column;
  g.u_offset = g.v_words + g.columns * g.rows * 4 * (int32_t)(sizeof(rqdkm_winograd_place) / 4);
  g.u_words = TAPS * g.blocks * P * RQDKM_WINOGRAD_BLOCK_U;
  g.row_bytes = (g.tiles_x * TILE + TAPS - 1) * p->input.c;
  return g;
}

int32_t rqdkm_conv2d_s8_winograd_f4x1_scratch_bytes(const rqdkm_winograd_params *params) {
  const geometry g = measure(params);
  return 4 * g.u_offset +
         max32(4 * ((params->transform ? g.u_words : 0) + max32(8 * P, rqdkm_winograd_unpacked_words(params))),
               g.row_bytes);
}

/* One input row, padded by the zero point, into `row`. */
static void pad_row(const rqdkm_winograd_params *p, int32_t row_bytes, const int8_t *input, int32_t y, int8_t *row) {
  const int32_t channels = p->input.c;
  const int32_t left = min32(p->pad_left * channels, row_bytes);
  const int32_t inside = y < 0 || y >= p->input.h ? 0 : min32(p->input.w * channels, row_bytes - left);
  memset(row, p->input_zero_point, (size_t)left);
  if (inside > 0) {
    memcpy(row + left, input + y * p->input.w * channels, (size_t)inside);
  }
  memset(row + left + inside, p->input_zero_point, (size_t)(row_bytes - left - inside));
}

RQDKM_INLINE void transform_tile(const uint32_t d[6], uint32_t *v) {
  uint32_t b[6], e[6];
  RQDKM_WINOGRAD_UNROLL
  for (int32_t j = 0; j < 6; j++) {
    b[j] = d[j] + (j < 4 ? 0u : (uint32_t)RQDKM_WINOGRAD_BIAS);
  }
  rqdkm_winograd_f4_input(b, e);
  RQDKM_WINOGRAD_UNROLL
  for (int32_t j = 0; j < P; j++) {
    rqdkm_store32(v + j * RQDKM_WINOGRAD_BLOCK_V, rqdkm_winograd_lanes(e[j]));
  }
}

/* Four channels of `tiles` neighbouring tiles, one lane apart. */
static void transform_row(const int8_t *row, int32_t channels, int32_t tiles, uint32_t *v) {
  const uint32_t middle = 0x00800080u;
  uint32_t *const end = v + tiles;
  RQDKM_NO_UNROLL
  for (; v != end; v++) {
    uint32_t even[6], odd[6]; /* x + 128 >= 0, channels (0, 2) and (1, 3) */
    const int8_t *at = row;
    RQDKM_WINOGRAD_UNROLL
    for (int32_t j = 0; j < 6; j++) {
      const uint32_t x = rqdkm_load32(at);
      even[j] = rqdkm_sxtab16(middle, x);
      odd[j] = rqdkm_sxtab16_ror8(middle, x);
      at += channels;
    }
    transform_tile(even, v);
    transform_tile(odd, v + 4);
    row += TILE * channels;
  }
}

/* Fills V, and says where each lane's outputs go, for output rows from `top` on. */
static void transform_strip(const geometry *g, const rqdkm_winograd_params *p, const int8_t *input, int32_t top,
                            uint32_t *v, rqdkm_winograd_place *places, int8_t *row) {
  const int32_t bottom = min32(top + p->strip, p->output.h);
  for (int32_t band = 0; band < g->bands; band++) {
    const int32_t first = top + band * g->rows;
    for (int32_t i = 0; i < g->rows + TAPS - 1; i++) {
      pad_row(p, g->row_bytes, input, first + i - p->pad_top, row);
      for (int32_t column = 0; column < g->columns; column++) {
        const int32_t tile = column * g->lanes_x, tiles = min32(g->lanes_x, g->tiles_x - tile);
        uint32_t *const words = v + column * g->v_column + i * g->v_row + band * g->lanes_x;
        for (int32_t c = 0; c < p->input.c; c += 4) {
          transform_row(row + tile * TILE * p->input.c + c, p->input.c, tiles,
                        words + (c >> 4) * P * RQDKM_WINOGRAD_BLOCK_V + ((c >> 1) & 7) * 4);
        }
        for (int32_t lane = 0; lane < g->lanes_x && i < g->rows; lane++) {
          rqdkm_winograd_place *const place = places + (column * g->rows + i) * 4 + band * g->lanes_x + lane;
          const int32_t x = (tile + lane) * TILE;
          place->offset = ((first + i) * p->output.w + x) * p->output.c;
          place->rows = first + i < bottom && lane < tiles ? 1 : 0;
          place->cols = (int8_t)min32(TILE, p->output.w - x);
        }
      }
    }
  }
}

int32_t rqdkm_conv2d_s8_winograd_f4x1(const rqdkm_winograd_params *params, const int8_t *input, const void *weights,
                                      const rqdkm_winograd_channel *channels, int8_t *output, void *scratch) {
  if (!input || !weights || !channels || !output || !scratch || params->strip < 1 || params->input.c % 4 != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const geometry g = measure(params);
  uint32_t *const v = scratch;
  rqdkm_winograd_place *const places = (rqdkm_winograd_place *)(v + g.v_words);
  uint32_t *const u = v + g.u_offset; /* the padded row is not needed any more when U and M are written */
  uint32_t *const m = params->transform ? u + g.u_words : u;
  const int32_t groups = g.columns * g.rows;

  if (g.lanes_x * g.bands < 4 || g.columns * g.lanes_x > g.tiles_x) { /* lanes that no tile fills */
    memset(v, 0, sizeof(uint32_t) * (size_t)g.u_offset);
  }
  for (int32_t top = 0; top < params->output.h; top += params->strip) {
    transform_strip(&g, params, input, top, v, places, (int8_t *)u);
    if (params->transform && params->input.c % 16 != 0) {
      memset(u, 0, sizeof(uint32_t) * (size_t)g.u_words);
    }
    const int8_t *packed = weights;
    for (int32_t co = 0; co < params->output.c; co += 2) {
      const uint32_t *products = u;
      if (params->transform) {
        packed = rqdkm_winograd_pair_transform(params, co >> 1, packed, m, u);
      } else {
        products = (const uint32_t *)weights + (co >> 1) * g.u_words;
      }
      const int32_t pair = min32(2, params->output.c - co);
      for (int32_t i = 0; i < groups; i++) {
        rqdkm_winograd_gemm_6(v + i / g.rows * g.v_column + i % g.rows * g.v_row, products, m, params->input.c);
        for (int32_t j = 0; j < pair; j++) {
          const rqdkm_winograd_channel *const channel = channels + co + j;
          const rqdkm_winograd_output finish = channel->wide ? params->finish_wide : params->finish;
          finish(params, m + 4 * j, places + 4 * i, 4, channel, output + co + j);
        }
      }
    }
  }
  return RQDKM_OK;
}
