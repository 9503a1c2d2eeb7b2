/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): an output stage, all tiles of an output channel. A template: who includes it has defined
 *     STORED                              outputs per side of a tile
 *     finish_group(form, f, t, loop)      neighbouring tiles of a group, their columns transformed; t: the first one's
 * and gets finish_tiles. As a function with those two for parameters GCC 12 gives it other registers, which costs up to
 * 1.6 % of a layer. */

/* Where not all outputs of a tile are valid: tiles one after another in memory. */
static const rqdkm_winograd_place packed[4] = RQDKM_WINOGRAD_PACKED(STORED);

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, const rqdkm_winograd_params *params, uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c, pitch = params->output.w * step;
  int8_t buffer[4 * STORED * STORED];
  f4x4_tile_loop loop = {place, out, channel->scale, m, pitch - (STORED - 1) * step, step};
  const int32_t all = place->whole;
  int32_t whole = all;
  RQDKM_NO_UNROLL
  for (; tiles > 0; tiles -= 4, m += GROUP) {
    const int32_t count = tiles < 4 ? tiles : 4;
    int32_t run = count;
    transform_columns(m, count, (uint32_t)channel->bias);
    RQDKM_NO_UNROLL
    for (int32_t i = 0; i < count; i += run, place += run) {
      if (!all) {
        run = run_of_tiles(place, count - i, STORED, &whole);
        loop.out = whole ? out : buffer;
        loop.down = whole ? pitch - (STORED - 1) * step : 1;
        loop.step = whole ? step : 1;
      }
      loop.place = whole ? place : packed;
      loop.end = m + i + run;
      finish_group(form, &f, m + i, &loop);
      if (!whole) rqdkm_winograd_store_tiles(buffer, STORED, place, run, out, step, pitch);
    }
  }
}
