/* SPDX-License-Identifier: Apache-2.0 */
/* What f4x4, f2x2 and f4x4s2 share: the loop over strips of tiles, output channel pairs and groups of four tiles. */
#ifndef RQDKM_CONV_WINOGRAD_2D_H
#define RQDKM_CONV_WINOGRAD_2D_H

#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { RQDKM_WINOGRAD_MAX_EDGE = 9, RQDKM_WINOGRAD_CALL_TILES = 28 /* at most, per call of an output stage */ };

/* A run of input columns: `count` columns, `step` bytes apart; column j of row i starts at row[i] + j * step. */
typedef struct {
  const int8_t *row[RQDKM_WINOGRAD_MAX_EDGE];
  int32_t step, count;
} rqdkm_winograd_columns;

/* Products and outputs of a strip whose V is there, in groups of 4 tiles by 2 output channels, or of 2 by 4. */
typedef struct rqdkm_winograd_strip rqdkm_winograd_strip;
void rqdkm_winograd_2d_compute_4(const rqdkm_winograd_strip *strip);
void rqdkm_winograd_2d_compute_2(const rqdkm_winograd_strip *strip);

typedef struct {
  int32_t tile;    /* m: outputs per edge */
  int32_t edge;    /* inputs per edge, and positions */
  int32_t advance; /* inputs from one tile to the next: m times the stride */
  int32_t lanes;   /* tiles of a group: 4, by 2 output channels, or 2, by 4, for which weights must be transformed */
  /* B^T d for the columns of a run, 4 channels: t[column][2 words][edge]. Returns the end of what it wrote. */
  uint32_t *(*columns)(const rqdkm_winograd_columns *run, int32_t channel, uint32_t *t);
  /* (B^T d) B of neighbouring tiles of a group, from one word of their columns: one word of V per position and tile.
     t: the first tile's first column; v: its lane at position 0. */
  void (*rows)(const uint32_t *t, uint32_t *v, int32_t tiles);
  rqdkm_winograd_gemm gemm;
  void (*compute)(const rqdkm_winograd_strip *strip); /* for `lanes` */
} rqdkm_winograd_2d;

int32_t rqdkm_winograd_2d_run(const rqdkm_winograd_2d *algorithm, const rqdkm_winograd_params *params,
                              const int8_t *input, const int8_t *residual, const void *weights,
                              const rqdkm_winograd_channel *channels, int8_t *output, void *scratch);
int32_t rqdkm_winograd_2d_scratch_bytes(const rqdkm_winograd_2d *algorithm, const rqdkm_winograd_params *params);

#endif
