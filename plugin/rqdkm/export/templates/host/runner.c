/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the model on this computer: samples on stdin (all inputs of one after the other), outputs on stdout.
   Ends with 0 after the last whole sample, 3 when a run failed, 4 when an input was cut short. */
#include <stdio.h>

#include "port/dispatch.h"
#include "rqdkm/port.h"
#include "rqdkm_model.h"

/* What the board would tell the policy: nobody else runs, and the core at full speed. */
uint32_t rqdkm_port_cycles(void) { return 0; }
uint32_t rqdkm_port_clock_hz(void) { return 168000000u; }

/* Bytes of input read; less than size only at the end of stdin. */
static size_t read_input(uint32_t index) {
  return fread(rqdkm_model_input(index), 1, rqdkm_model_inputs[index].bytes, stdin);
}

int main(void) {
#if RQDKM_DISPATCH
  rqdkm_dispatch_init();
#endif
  for (;;) {
    for (uint32_t i = 0; i < rqdkm_model_input_count; ++i) {
      size_t size = read_input(i);
      if (i == 0 && size == 0) return 0;
      if (size != rqdkm_model_inputs[i].bytes) return 4;
    }
#if RQDKM_DISPATCH
    rqdkm_dispatch_frame();
#endif
    int32_t status = rqdkm_model_run();
    if (status != 0) {
      fprintf(stderr, "rqdkm_model_run returned %d\n", (int)status);
      return 3;
    }
    for (uint32_t i = 0; i < rqdkm_model_output_count; ++i) {
      fwrite(rqdkm_model_output(i), 1, rqdkm_model_outputs[i].bytes, stdout);
    }
  }
}
