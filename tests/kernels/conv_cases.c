/* SPDX-License-Identifier: Apache-2.0 */
/* Runs convolutions that it reads from a file, with run-time parameters: one program for thousands of shapes.
 *
 * File: count; per case 40 words (struct record), then the buffers weights, pair table, input and, where not all
 * weights have 8 bits, the bits of every pair, each as size and bytes, or for the reference filter, bias, multipliers,
 * shifts, input. Results file: the output bytes of every case. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rqdkm/kernels/conv2d_s8_direct_template.h"
#include "rqdkm/kernels/conv2d_s8_narrow_template.h"

enum { kReference, kGemm, kIm2row, kDirect, kNarrow };

typedef struct {
  int32_t kernel, buffers, output_bytes, scratch_bytes;
  rqdkm_conv_params params;
  rqdkm_dims input, filter, output;
  rqdkm_conv_tile tile;
  int32_t form;
  int32_t constants[8]; /* the template's, in order */
} record;

static FILE *cases;

static void get(void *data, size_t size) {
  if (fread(data, 1, size, cases) != size) exit(90);
}

static void *get_buffer(void) {
  uint32_t size;
  get(&size, sizeof size);
  void *buffer = malloc(size);
  get(buffer, size);
  return buffer;
}

/* The scratch size according to C, or -1 where the kernel has no function for it. */
static int32_t scratch_bytes(const record *r) {
  switch (r->kernel) {
    case kGemm:
      return rqdkm_conv2d_s8_gemm_scratch_bytes(&r->params, &r->input, &r->filter, &r->output, &r->tile);
    case kIm2row:
      return rqdkm_conv2d_s8_im2row_scratch_bytes(&r->params, &r->input, &r->filter, &r->output, &r->tile);
    case kDirect:
      return rqdkm_conv2d_s8_direct_scratch_bytes(&r->params, &r->input, &r->filter, &r->output, &r->tile);
    default:
      return -1;
  }
}

/* The panel function of a form. */
static rqdkm_panel_function panel_for(rqdkm_requantize_form form) {
  switch (form) {
    case RQDKM_REQUANTIZE_FLOOR:
      return rqdkm_panel_s8_floor;
    case RQDKM_REQUANTIZE_SHIFT:
      return rqdkm_panel_s8_shift;
    case RQDKM_REQUANTIZE_AWAY:
      return rqdkm_panel_s8_away;
    case RQDKM_REQUANTIZE_AWAY_SHIFT:
      return rqdkm_panel_s8_away_shift;
    default:
      return rqdkm_panel_s8_wide;
  }
}

static int32_t run(const record *r, void **b, int8_t *out, void *scratch) {
  const rqdkm_packed_quant quant = {(rqdkm_requantize_form)r->form, (const rqdkm_pair_quant *)b[1],
                                    (const uint8_t *)b[3], panel_for((rqdkm_requantize_form)r->form)};
  const int32_t *k = r->constants;
  switch (r->kernel) {
    case kReference: {
      const rqdkm_channel_quant channels = {(const int32_t *)b[2], (const int32_t *)b[3]};
      return rqdkm_conv2d_s8_ref(&r->params, &channels, &r->input, (const int8_t *)b[4], &r->filter,
                                 (const int8_t *)b[0], (const int32_t *)b[1], &r->output, out);
    }
    case kGemm:
      return rqdkm_conv2d_s8_gemm(&r->params, &quant, &r->input, (const int8_t *)b[2], &r->filter, (const int8_t *)b[0],
                                  &r->output, out, &r->tile, scratch);
    case kIm2row:
      return rqdkm_conv2d_s8_im2row(&r->params, &quant, &r->input, (const int8_t *)b[2], &r->filter,
                                    (const int8_t *)b[0], &r->output, out, &r->tile, scratch);
    case kDirect:
      return rqdkm_conv2d_s8_direct_template(&r->params, &quant, &r->input, (const int8_t *)b[2], &r->filter,
                                             (const int8_t *)b[0], &r->output, out, &r->tile, scratch, k[0], k[1], k[2],
                                             quant.form);
    default:
      return rqdkm_conv2d_s8_narrow_template(&r->params, &quant, &r->input, (const int8_t *)b[2], &r->filter,
                                             (const int8_t *)b[0], &r->output, out, &r->tile, scratch, k[0], k[1], k[2],
                                             k[3], k[4], k[5], k[6], quant.form);
  }
}

int main(int argc, char **argv) {
  cases = fopen(argc > 1 ? argv[1] : "", "rb");
  FILE *results = fopen(argc > 2 ? argv[2] : "", "wb");
  if (cases == 0 || results == 0) return 91;
  uint32_t count;
  get(&count, sizeof count);
  for (uint32_t index = 0; index < count; index++) {
    record r;
    void *b[5] = {0};
    get(&r, sizeof r);
    for (int32_t i = 0; i < r.buffers; i++) b[i] = get_buffer();
    int8_t *out = malloc((size_t)r.output_bytes);
    void *scratch = malloc((size_t)r.scratch_bytes);
    memset(out, 0x5a, (size_t)r.output_bytes);
    memset(scratch, 0xa5, (size_t)r.scratch_bytes);
    const int32_t expected = scratch_bytes(&r), status = run(&r, b, out, scratch);
    if ((expected != -1 && expected != r.scratch_bytes) || status != 0) {
      fprintf(stderr, "case %u: status %d, scratch %d instead of %d\n", (unsigned)index, (int)status,
              (int)r.scratch_bytes, (int)expected);
      return 93;
    }
    fprintf(stderr, "case %u done\n", (unsigned)index);
    if (fwrite(out, 1, (size_t)r.output_bytes, results) != (size_t)r.output_bytes) return 94;
    for (int32_t i = 0; i < r.buffers; i++) free(b[i]);
    free(out);
    free(scratch);
  }
  return fclose(results) != 0;
}
