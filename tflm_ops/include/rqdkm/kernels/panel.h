/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix product of a panel of pixels with pairs of output channels, requantized.
 *
 * A panel holds the input lanes of `pixels` output positions, in blocks of up to four pixels, word-interleaved inside a
 * block: block[step][pixel], two taps per step. With this layout every offset in the inner loop is a constant, whatever
 * the layer, so one compiled function is as fast as a specialised one. */
#ifndef RQDKM_KERNELS_PANEL_H
#define RQDKM_KERNELS_PANEL_H

#include "rqdkm/kernels/block.h"
#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How many blocks of 4, 3, 2 and 1 pixels a panel is cut into: as many fours as leave the rest to threes, which cost no
   more per pixel; a two or a one only where there is no other way (1, 2 or 5 pixels). */
typedef struct {
  int32_t fours, threes, rest; /* rest: 0, 1 or 2 pixels */
} rqdkm_panel_cut;

RQDKM_INLINE rqdkm_panel_cut rqdkm_cut_panel(int32_t pixels) {
  rqdkm_panel_cut cut;
  cut.threes = (4 - pixels % 4) % 4;
  if (3 * cut.threes > pixels) {
    cut.threes = pixels / 3; /* 1, 2 or 5 pixels */
  }
  cut.fours = (pixels - 3 * cut.threes) / 4;
  cut.rest = pixels - 3 * cut.threes - 4 * cut.fours;
  return cut;
}

/* A panel, and what it is multiplied with. */
typedef struct rqdkm_panel_product {
  const uint32_t *panel;
  const uint32_t *weights; /* expanded, [step][2] for each pair of output channels */
  int32_t steps;           /* pairs of taps, >= 1 */
  int32_t pixels;
  int32_t pairs;      /* pairs of output channels, >= 1, side by side in quant and out ... */
  int32_t pair_words; /* ... and so far apart in weights */
  const rqdkm_pair_quant *quant;
  int8_t *out;    /* first pixel's output of the first channel */
  int32_t stride; /* bytes from one pixel's output to the next */
} rqdkm_panel_product;

void rqdkm_panel_s8_floor(const rqdkm_panel_product *product);
void rqdkm_panel_s8_shift(const rqdkm_panel_product *product);
void rqdkm_panel_s8_away(const rqdkm_panel_product *product);
void rqdkm_panel_s8_away_shift(const rqdkm_panel_product *product);
void rqdkm_panel_s8_wide(const rqdkm_panel_product *product);

/* A convolution's panels, group of output channels after group: weights and constants of the current one. */
typedef struct {
  rqdkm_panel_function multiply;
  const int8_t *filter, *end;    /* packed weights of the group, and where they end, known after the first panel */
  const rqdkm_pair_quant *quant; /* per pair of the group */
  const uint8_t *bits;           /* per pair of the group, or NULL: all have 8 */
  uint32_t *weights;             /* expanded: of all pairs if resident, else room for one */
  int8_t *bounce;                /* 2 bytes per pixel, where a group has a single channel */
  int32_t resident, weight_words, steps, pairs, channels; /* words of a pair; pairs and channels of a group */
  int32_t stride;                                         /* bytes from one pixel's output to the next */
} rqdkm_panel_group;

/* Before the first panel of a group: expands its weights if they are to be resident. */
void rqdkm_panel_group_begin(rqdkm_panel_group *group);

/* A panel with all pairs of the group; out: first pixel's output of the group's first channel. A function of its own,
   since its loop, the expansion and the product must fit the instruction cache together. */
void rqdkm_panel_group_multiply(rqdkm_panel_group *group, const uint32_t *panel, int32_t pixels, int8_t *out);

/* After the last panel of a group: on to the next. */
void rqdkm_panel_group_next(rqdkm_panel_group *group);

#ifdef __cplusplus
}
#endif
#endif
