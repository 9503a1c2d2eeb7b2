/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for TFLM's header of this name, see ../../README.md: the resolver of the Python wheel's interpreter. */
#ifndef RQDKM_INTERFACE_PYTHON_OPS_RESOLVER_H
#define RQDKM_INTERFACE_PYTHON_OPS_RESOLVER_H

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace tflite {

/* Constructed by the wheel; a plug-in adds to it. */
class PythonOpsResolver : public MicroMutableOpResolver<200> {
 public:
  PythonOpsResolver();
};

}  // namespace tflite

#endif
