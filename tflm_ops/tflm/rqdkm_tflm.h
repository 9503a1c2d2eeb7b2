/* SPDX-License-Identifier: Apache-2.0 */
/* rqdkm's operators for TensorFlow Lite Micro: mixed precision, patches, and the kernels of rqdkm's own firmware.
 *
 * `rqdkm tflm export` writes models that use them, and the code that registers the ones a model needs (docs/tflm.md).
 * By hand, with TFLM's resolver:
 *
 *   static tflite::MicroMutableOpResolver<3> resolver;
 *   resolver.AddCustom("RQDKM_CONV_2D", tflite::Register_RQDKM_CONV_2D());
 *
 * A node is run by one of two: by code generated for exactly this layer, if its options name such code (then
 * rqdkm_add_layers must have been called), or by kernels that take their parameters at run time, if its options hold
 * these. Each operator knows both; Register_RQDKM_LAYER knows generated code only, under any name, and so links no
 * other kernel.
 *
 * The model must be aligned to 4 bytes or more (TFLM asks for 16). Feature maps below 8 bits are int8 tensors whose
 * last extent counts bytes; elements are packed low bits first. Nothing allocates but from the interpreter's arena.
 * What is wrong with a node is found when tensors are allocated: kTfLiteError, and a line by MicroPrintf. */
#ifndef RQDKM_TFLM_H
#define RQDKM_TFLM_H

#include "rqdkm/layer_code.h"
#include "tensorflow/lite/micro/micro_common.h"

namespace tflite {

/* Any layer with generated code: whole patch stages too, for which there is nothing else. */
TFLMRegistration *Register_RQDKM_LAYER();

/* A layer that runs the kernel selected before the frame (rqdkm/morph.h); generated code only. */
TFLMRegistration *Register_RQDKM_MORPH_CONV_2D();

/* input, weights, bias (int32), multipliers, shifts (int32), bits of each output channel's weights (uint8). Weights are
   packed channel after channel, each from a whole byte on, in TFLite's order; or as a faster kernel has them. */
TFLMRegistration *Register_RQDKM_CONV_2D();
TFLMRegistration *Register_RQDKM_DEPTHWISE_CONV_2D();
TFLMRegistration *Register_RQDKM_FULLY_CONNECTED();

/* Operators that only have to be ours where a map is below 8 bits. */
TFLMRegistration *Register_RQDKM_ADD();
TFLMRegistration *Register_RQDKM_MUL();
TFLMRegistration *Register_RQDKM_AVERAGE_POOL_2D();
TFLMRegistration *Register_RQDKM_MAX_POOL_2D();
TFLMRegistration *Register_RQDKM_MEAN();
TFLMRegistration *Register_RQDKM_PAD();
TFLMRegistration *Register_RQDKM_CLIP();
/* Functions of one tensor (relu that rescales, logistic, tanh, ...) as a table of 256 values. */
TFLMRegistration *Register_RQDKM_TABLE();

}  // namespace tflite

#endif
