/* SPDX-License-Identifier: Apache-2.0 */
/* Window operators on packed maps, for some rows of the result at a time: what is unpacked is never a whole map. */
#ifndef RQDKM_TFLM_BANDS_H
#define RQDKM_TFLM_BANDS_H

#include "convolution.h"
#include "rqdkm/bands.h"

namespace rqdkm {

class Bands {
 public:
  /* Reads "band" where a map is packed, and tells `maps` what is unpacked at a time. */
  bool Read(const Preparation &preparation, const Geometry &g, Maps *maps);

  /* The most that scratch_bytes(params, input_dims, output_dims) gives for any band. */
  template <class Function>
  int64_t Most(const Geometry &g, Function scratch_bytes) const {
    int64_t most = 0;
    for (int32_t y = 0; y < g.output.h; y += rows_) {
      const Band band = At(g, y);
      const int64_t bytes = scratch_bytes(band.params, band.input, band.output);
      most = bytes > most ? bytes : most;
    }
    return most;
  }

  /* kernel(params, input_dims, input, output_dims, output): a status. */
  template <class Function>
  int32_t Run(const Call &call, const Geometry &g, const Maps &maps, Function kernel) const {
    const int32_t in_row = g.input.w * g.input.c, out_row = g.output.w * g.output.c;
    for (int32_t y = 0; y < g.output.h; y += rows_) {
      const Band band = At(g, y);
      const int8_t *const input = maps.Input(call, 0, band.first * in_row, band.input.h * in_row);
      const int32_t done = kernel(band.params, band.input, input, band.output, maps.Result(call, y * out_row));
      const int32_t status = maps.Store(call, done, y * out_row, band.output.h * out_row);
      if (status != RQDKM_OK) return status;
    }
    return RQDKM_OK;
  }

 private:
  struct Band {
    rqdkm_conv_params params;
    rqdkm_dims input, output;
    int32_t first; /* input row */
  };
  Band At(const Geometry &g, int32_t y) const;

  int32_t rows_ = 1; /* of the result, at a time */
  bool whole_ = true;
};

}  // namespace rqdkm

#endif
