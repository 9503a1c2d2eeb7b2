/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of one pair of output channels on line, from any width. */
#ifndef RQDKM_CONV_WINOGRAD_PAIR_H
#define RQDKM_CONV_WINOGRAD_PAIR_H

#include "rqdkm/kernels/weights.h"
#include "rqdkm/winograd.h"

/* Words of four weights of a pair; each input channel has 2 x 9. */
RQDKM_INLINE int32_t rqdkm_winograd_pair_words(const rqdkm_winograd_params *params) {
  return 2 * 9 * (params->input.c / 4);
}

/* Words of scratch for a pair as int8. M can lie there too: it is not needed before the transform is over. */
RQDKM_INLINE int32_t rqdkm_winograd_unpacked_words(const rqdkm_winograd_params *params) {
  return params->transform && params->bits ? rqdkm_winograd_pair_words(params) : 0;
}

/* U of the pair whose weights start at `packed`; unpacked: see above. Returns the weights of the next pair. */
RQDKM_INLINE const int8_t *rqdkm_winograd_pair_transform(const rqdkm_winograd_params *params, int32_t pair,
                                                         const int8_t *packed, uint32_t *unpacked, uint32_t *u) {
  const int32_t words = rqdkm_winograd_pair_words(params), bits = rqdkm_pair_bits(params->bits, pair);
  const int8_t *weights = packed;
  if (bits != 8) {
    rqdkm_weights_unpack(unpacked, packed, words, bits);
    weights = (const int8_t *)unpacked;
  }
  params->transform(weights, params->input.c, u);
  return packed + rqdkm_weights_bytes(words, bits);
}

#endif
