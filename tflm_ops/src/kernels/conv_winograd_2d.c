/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_2d.h"

#include <stddef.h>

#include "conv_winograd_add.h"
#include "conv_winograd_pair.h"

enum { ADD_TILES = 8 }; /* finished into a buffer on the stack before the residual is added */

typedef struct {
  int32_t tile, edge, advance, positions;
  int32_t lanes, outputs;    /* tiles of a group, output channels at once */
  int32_t call_tiles;        /* per call of the output stage */
  int32_t tiles_x, tiles;    /* of the whole map */
  int32_t blocks;            /* of 16 input channels */
  int32_t strip_tiles;       /* largest strip */
  int32_t v_group, u_words;  /* words of V per group, of U per `outputs` */
  int32_t v_words, u_offset; /* scratch, in words: V, then places, then U and M or the input stage's rows */
  int32_t m_words;           /* of M per group */
  int32_t product_words, input_words;
  int32_t pad_words; /* a row of padding, as wide as a run of tiles */
} geometry;

struct rqdkm_winograd_strip {
  const geometry *geometry;
  const rqdkm_winograd_params *params;
  rqdkm_winograd_gemm gemm;
  const int8_t *residual;
  const void *weights;
  const rqdkm_winograd_channel *channels;
  int8_t *output;
  const uint32_t *v;
  const rqdkm_winograd_place *places;
  uint32_t *shared; /* U and M */
  int32_t count;    /* tiles */
};

static int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }
static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t max32(int32_t a, int32_t b) { return a > b ? a : b; }

/* Tiles per turn of the products, and per call of the output stage, which wants them side by side; of 2, they are not.
 */
RQDKM_INLINE int32_t gemm_tiles(const int32_t lanes) { return lanes == 4 ? RQDKM_WINOGRAD_CALL_TILES : lanes; }
RQDKM_INLINE int32_t call_tiles(const int32_t lanes) { return lanes == 4 ? RQDKM_WINOGRAD_CALL_TILES : 1; }

static geometry measure(const rqdkm_winograd_2d *algorithm, const rqdkm_winograd_params *p) {
  const int32_t tile = algorithm->tile;
  geometry g;
  g.tile = tile;
  g.edge = algorithm->edge;
  g.advance = algorithm->advance;
  g.lanes = algorithm->lanes;
  g.outputs = 8 / g.lanes;
  g.call_tiles = call_tiles(g.lanes);
  g.positions = g.edge * g.edge;
  g.tiles_x = ceil_div(p->output.w * p->pool, tile);
  g.tiles = g.tiles_x * ceil_div(p->output.h * p->pool, tile);
  g.blocks = ceil_div(p->input.c, 16);
  g.strip_tiles = min32(4 * p->strip, g.tiles);
  g.v_group = g.blocks * g.positions * 8 * g.lanes;
  g.u_words = g.blocks * g.positions * 8 * g.outputs;
  g.v_words = ceil_div(g.strip_tiles, g.lanes) * g.v_group;
  g.u_offset = g.v_words + g.strip_tiles * (int32_t)(sizeof(rqdkm_winograd_place) / 4);
  g.m_words = 8 * g.positions;
  g.product_words =
      (p->transform ? g.u_words : 0) +
      max32(ceil_div(min32(g.strip_tiles, gemm_tiles(g.lanes)), g.lanes) * g.m_words, rqdkm_winograd_unpacked_words(p));
  const int32_t columns = min32(g.strip_tiles, g.tiles_x) * g.advance + g.edge - g.advance;
  g.pad_words = min32(columns, p->input.w) * p->input.c / 4;
  g.input_words = columns * 2 * g.edge + g.pad_words;
  return g;
}

int32_t rqdkm_winograd_2d_scratch_bytes(const rqdkm_winograd_2d *algorithm, const rqdkm_winograd_params *params) {
  const geometry g = measure(algorithm, params);
  return 4 * (g.u_offset + max32(g.product_words, g.input_words));
}

/* V of `count` neighbouring tiles of one tile row. first: index of the first one within the strip. */
static void transform_input(const rqdkm_winograd_2d *algorithm, const geometry *g, const rqdkm_winograd_params *p,
                            const int8_t *input, int32_t tile_y, int32_t tile_x, int32_t count, int32_t first,
                            uint32_t *v, uint32_t *t, const int8_t *pad_row) {
  const int32_t y = tile_y * g->advance - p->pad_top, x = tile_x * g->advance - p->pad_left;
  const int32_t columns = count * g->advance + g->edge - g->advance;
  const int32_t left = min32(max32(-x, 0), columns);
  const int32_t inside = max32(min32(p->input.w - x, columns) - left, 0);
  const int32_t row_bytes = p->input.w * p->input.c;
  rqdkm_winograd_columns padding, run;
  run.step = p->input.c;
  run.count = inside;
  padding.step = 0;
  for (int32_t i = 0; i < g->edge; i++) {
    const int32_t row = y + i;
    padding.row[i] = pad_row;
    run.row[i] =
        row < 0 || row >= p->input.h || inside == 0 ? pad_row : input + row * row_bytes + (x + left) * run.step;
  }
  for (int32_t channel = 0; channel < p->input.c; channel += 4) {
    padding.count = left;
    uint32_t *end = algorithm->columns(&padding, 0, t);
    end = algorithm->columns(&run, channel, end);
    padding.count = columns - left - inside;
    (void)algorithm->columns(&padding, 0, end);
    uint32_t *const block = v + ((channel >> 4) * g->positions * 8 + ((channel >> 1) & 7)) * g->lanes;
    const uint32_t *column = t;
    for (int32_t i = first; i < first + count;) {
      const int32_t group = i / g->lanes, lane = i % g->lanes;
      const int32_t tiles = min32(g->lanes - lane, first + count - i);
      uint32_t *const words = block + group * g->v_group + lane;
      algorithm->rows(column, words, tiles);
      algorithm->rows(column + g->edge, words + g->lanes, tiles);
      column += tiles * g->advance * 2 * g->edge;
      i += tiles;
    }
  }
}

/* Tiles in a buffer [tile][edge][edge][2]. */
#define PACKED(i, edge) {2 * (i) * (edge) * (edge), edge, edge, 1}
#define PACKED_TILES(edge)                                             \
  {PACKED(0, edge), PACKED(1, edge), PACKED(2, edge), PACKED(3, edge), \
   PACKED(4, edge), PACKED(5, edge), PACKED(6, edge), PACKED(7, edge)}
static const rqdkm_winograd_place packed_4[ADD_TILES] = PACKED_TILES(4), packed_2[ADD_TILES] = PACKED_TILES(2);

/* Where in M the sums of tile n begin, n a multiple of those of a call, for the first output channel. */
RQDKM_INLINE uint32_t *sums_of(const geometry *g, uint32_t *m, int32_t n, const int32_t lanes) {
  return m + (lanes == 4 ? n / 4 * g->m_words : 4 * n);
}

/* As the end of compute for a pair of output channels, but into a buffer, which is then added to the residual. */
static RQDKM_NOINLINE void finish_and_add(const rqdkm_winograd_strip *strip, uint32_t *m, int32_t co, int32_t channels,
                                          int32_t place, int32_t tiles) {
  const geometry *const g = strip->geometry;
  const rqdkm_winograd_params *const params = strip->params;
  const rqdkm_dims one_tile = {g->tile, g->tile, 2};
  const int32_t lanes = g->lanes, call = g->call_tiles < ADD_TILES ? g->call_tiles : ADD_TILES;
  int8_t bytes[ADD_TILES * 2 * 4 * 4 + RQDKM_WINOGRAD_ADD_ALIGN - 1];
  int8_t *const buffer = bytes + (-(uintptr_t)bytes & (RQDKM_WINOGRAD_ADD_ALIGN - 1));
  rqdkm_winograd_params packed = *params;
  packed.output = one_tile;
  for (int32_t start = 0; start < tiles; start += ADD_TILES) {
    const int32_t end = min32(start + ADD_TILES, tiles);
    for (int32_t k = 0; k < channels; k++) {
      const rqdkm_winograd_channel *const channel = strip->channels + co + k;
      const rqdkm_winograd_output finish = channel->wide ? params->finish_wide : params->finish;
      for (int32_t n = start; n < end; n += call) {
        finish(&packed, sums_of(g, m, n, lanes) + (lanes == 4 ? 4 : 1) * k,
               (g->tile == 4 ? packed_4 : packed_2) + n - start, min32(call, end - n), channel, buffer + k);
      }
    }
    rqdkm_winograd_add_tiles(params->add, buffer, g->tile, strip->places + place + start, end - start, channels,
                             strip->residual + co, strip->output + co, params->output.c,
                             params->output.w * params->output.c);
  }
}

/* Products and outputs of a strip. lanes: as g->lanes, a constant. */
RQDKM_INLINE void compute(const rqdkm_winograd_strip *strip, const int32_t lanes) {
  const geometry *const g = strip->geometry;
  const rqdkm_winograd_params *const params = strip->params;
  const rqdkm_winograd_place *const places = strip->places;
  const rqdkm_winograd_gemm gemm = strip->gemm;
  uint32_t *const u = strip->shared, *const m = params->transform ? u + g->u_words : u;
  const int32_t out_c = params->output.c, in_c = params->input.c, count = strip->count;

  if (params->transform && in_c % 16 != 0) { /* words of the last block that no channel fills */
    const int32_t last_block = g->positions * 8 * g->outputs;
    memset(u + g->u_words - last_block, 0, sizeof(uint32_t) * (size_t)last_block);
  }
  const int8_t *packed = strip->weights;
  for (int32_t co = 0; co < out_c; co += 8 / lanes) {
    const int32_t outputs = min32(8 / lanes, out_c - co);
    const uint32_t *products = u;
    if (params->transform) {
      for (int32_t j = 0; j < outputs; j += 2) {
        packed = rqdkm_winograd_pair_transform(params, (co + j) >> 1, packed, m, u + j);
      }
    } else {
      products = (const uint32_t *)strip->weights + (co >> 1) * g->u_words;
    }
    for (int32_t i = 0; i < count; i += gemm_tiles(lanes)) {
      const int32_t tiles = min32(gemm_tiles(lanes), count - i);
      for (int32_t group = 0; lanes * group < tiles; group++) {
        const uint32_t *const v = strip->v + (i / lanes + group) * g->v_group;
        if (lanes == 4) {
          gemm(v, products, m + group * g->m_words, in_c);
        } else { /* the 4 x 2 words of a step are U by V */
          gemm(products, v, m + group * g->m_words, in_c);
        }
      }
      if (params->add) {
        for (int32_t j = 0; j < outputs; j += 2) {
          finish_and_add(strip, m + (lanes == 4 ? 4 : 1) * j, co + j, min32(2, outputs - j), i, tiles);
        }
        continue;
      }
      for (int32_t j = 0; j < outputs; j++) {
        const rqdkm_winograd_channel *const channel = strip->channels + co + j;
        const rqdkm_winograd_output finish = channel->wide ? params->finish_wide : params->finish;
        for (int32_t n = 0; n < tiles; n += call_tiles(lanes)) {
          finish(params, sums_of(g, m, n, lanes) + (lanes == 4 ? 4 : 1) * j, places + i + n,
                 min32(call_tiles(lanes), tiles - n), channel, strip->output + co + j);
        }
      }
    }
  }
}

void rqdkm_winograd_2d_compute_4(const rqdkm_winograd_strip *strip) { compute(strip, 4); }
void rqdkm_winograd_2d_compute_2(const rqdkm_winograd_strip *strip) { compute(strip, 2); }

int32_t rqdkm_winograd_2d_run(const rqdkm_winograd_2d *algorithm, const rqdkm_winograd_params *params,
                              const int8_t *input, const int8_t *residual, const void *weights,
                              const rqdkm_winograd_channel *channels, int8_t *output, void *scratch) {
  if (!input || !weights || !channels || !output || !scratch || params->strip < 1 || params->input.c % 4 != 0 ||
      (params->add != NULL) != (residual != NULL) || params->pool < 1 || params->pool > 2 ||
      (algorithm->lanes != 4 && !params->transform)) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const geometry g = measure(algorithm, params);
  uint32_t *const v = scratch;
  rqdkm_winograd_place *const places = (rqdkm_winograd_place *)(v + g.v_words);
  uint32_t *const shared = v + g.u_offset; /* the input stage is over before U and M are written */
  int8_t *const pad_row = (int8_t *)shared;
  uint32_t *const t = shared + g.pad_words;
  const int32_t stored = g.tile / params->pool; /* outputs of a tile along an axis */
  rqdkm_winograd_strip strip = {&g, params, algorithm->gemm, residual, weights, channels, output, v, places, shared, 0};

  for (int32_t start = 0; start < g.tiles; start += g.strip_tiles) {
    const int32_t count = min32(g.strip_tiles, g.tiles - start);
    memset(pad_row, params->input_zero_point, (size_t)g.pad_words * 4);
    for (int32_t i = 0; i < count;) {
      const int32_t tile_y = (start + i) / g.tiles_x, tile_x = (start + i) % g.tiles_x;
      const int32_t run = min32(g.tiles_x - tile_x, count - i);
      transform_input(algorithm, &g, params, input, tile_y, tile_x, run, i, v, t, pad_row);
      for (int32_t j = 0; j < run; j++, i++) {
        const int32_t y = tile_y * stored, x = (tile_x + j) * stored;
        places[i].offset = (y * params->output.w + x) * params->output.c;
        places[i].rows = (int8_t)min32(stored, params->output.h - y);
        places[i].cols = (int8_t)min32(stored, params->output.w - x);
        places[i].whole = 1;
        const int32_t first = i - i % g.call_tiles;
        places[first].whole &= places[i].rows == stored && places[i].cols == stored;
      }
    }
    strip.count = count;
    algorithm->compute(&strip);
  }
  return RQDKM_OK;
}
