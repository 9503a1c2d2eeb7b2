/* SPDX-License-Identifier: Apache-2.0 */
#include "bands.h"

namespace rqdkm {

bool Bands::Read(const Preparation &p, const Geometry &g, Maps *maps) {
  rows_ = g.output.h;
  if (!maps->packed()) return true;
  int32_t rows = 0;
  if (!p.Integer(Key::band, 1, kMostExtent, &rows)) return false;
  if (rows >= g.output.h) return true;
  const int32_t reach = (g.filter.h - 1) * g.params.dilation.h + 1, top = g.params.padding.top;
  if (top >= reach || (g.output.h - 1) * g.params.stride.h - top >= g.input.h) {
    return p.Fail("a window lies entirely in the padding: it cannot be run in bands");
  }
  rows_ = rows;
  whole_ = false;
  const int64_t needed = int64_t{rows - 1} * g.params.stride.h + reach;
  maps->Part(0, (needed < g.input.h ? needed : g.input.h) * g.input.w * g.input.c);
  maps->Part(1, int64_t{rows} * g.output.w * g.output.c);
  return true;
}

Bands::Band Bands::At(const Geometry &g, int32_t y) const {
  Band band = {g.params, g.input, g.output, 0};
  if (whole_) return band;
  const int32_t rows = rows_ < g.output.h - y ? rows_ : g.output.h - y;
  const int32_t reach = (g.filter.h - 1) * g.params.dilation.h + 1;
  const rqdkm_band found = rqdkm_band_rows(y, rows, g.params.stride.h, reach, g.params.padding.top, g.input.h);
  band.first = found.first;
  band.input.h = found.rows;
  band.output.h = rows;
  band.params.padding.top = found.pad_top;
  band.params.padding.bottom = found.pad_bottom;
  return band;
}

}  // namespace rqdkm
