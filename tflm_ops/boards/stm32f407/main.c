/* SPDX-License-Identifier: Apache-2.0 */
/* Serves the model over the framed I/O protocol (docs/board.md). An application of its own replaces this file: it calls
   rqdkm_port_init() if it wants the clock and the cycle counter, fills rqdkm_model_input(), calls rqdkm_model_run(). */
#include "port/server.h"
#include "rqdkm/port.h"

int main(void) {
  rqdkm_port_init();
  return (int)rqdkm_server_run();
}
