/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see README.md. */
#ifndef RQDKM_INTERFACE_MICRO_LOG_H
#define RQDKM_INTERFACE_MICRO_LOG_H

/* printf to wherever the platform logs, with a line's end of its own. */
void MicroPrintf(const char *format, ...);

#endif
