/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see ../../../README.md: a model file as the interpreter takes it. */
#ifndef RQDKM_INTERFACE_SCHEMA_GENERATED_H
#define RQDKM_INTERFACE_SCHEMA_GENERATED_H

#include <stdint.h>
#include <string.h>

namespace tflite {

struct Model;

/* A file starts with the offset of its root table. */
inline const Model *GetModel(const void *file) {
  uint32_t offset = 0;
  memcpy(&offset, file, sizeof offset);
  return reinterpret_cast<const Model *>(static_cast<const uint8_t *>(file) + offset);
}

}  // namespace tflite

#endif
