/* SPDX-License-Identifier: Apache-2.0 */
/* Patch stages: the first layers of a network, computed patch by patch (docs/patches.md). The compiler writes one
   function per shape of patch; what they share is here. */
#ifndef RQDKM_PATCHES_H
#define RQDKM_PATCHES_H

#include <stdint.h>

#include "rqdkm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A patch is an outlier patch if at least `count` of its values are below `low` or above `high`. */
typedef struct {
  int32_t low, high, count;
} rqdkm_outliers;

/* `rows` runs of `bytes`; strides in bytes. Source and target do not overlap. */
void rqdkm_copy_rows(void *to, int32_t to_stride, const void *from, int32_t from_stride, int32_t rows, int32_t bytes);

/* 1 if the int8 values of `rows` runs of `bytes` are those of an outlier patch, otherwise 0. Stops at the value that
   decides it. */
int32_t rqdkm_is_outlier_patch(rqdkm_outliers outliers, const void *from, int32_t stride, int32_t rows, int32_t bytes);

/* Hands over `rows` rows of `bytes` bytes of a model's int8 input: from row `row` and byte `offset` of a row on
   (NHWC; offset and bytes are whole pixels). Written densely to `to`. Returns 0, or a negative rqdkm_status that ends
   the run. */
typedef int32_t (*rqdkm_input_fn)(void *context, int32_t row, int32_t offset, int32_t rows, int32_t bytes, void *to);

/* Who hands over the input of a model that was built with `--input callback`; context is passed on. */
void rqdkm_set_input(rqdkm_input_fn input, void *context);
/* RQDKM_ERROR_ARGUMENT before rqdkm_set_input. Called by the generated code. */
int32_t rqdkm_fetch_input(int32_t row, int32_t offset, int32_t rows, int32_t bytes, void *to);

#ifdef __cplusplus
}
#endif
#endif
