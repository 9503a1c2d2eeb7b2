/* SPDX-License-Identifier: Apache-2.0 */
/* The operators as a plug-in of the tflite-micro wheel's interpreter, which calls the function below by its name:
 *     Interpreter.from_file(model, custom_op_registerers=["RqdkmRegisterOperators"])
 * after the wheel's _runtime.so and then this library have been loaded with RTLD_GLOBAL. RQDKM_LAYERS, if defined, is
 * the list of generated layers to make known. */
#include "python/tflite_micro/python_ops_resolver.h"
#include "rqdkm_tflm.h"

#ifdef RQDKM_LAYERS
extern "C" rqdkm_layer_library RQDKM_LAYERS;
#endif

extern "C" bool RqdkmRegisterOperators(tflite::PythonOpsResolver *resolver) {
#ifdef RQDKM_LAYERS
  rqdkm_add_layers(&RQDKM_LAYERS);
#endif
  struct {
    const char *name;
    TFLMRegistration *registration;
  } const operators[] = {
      {"RQDKM_LAYER", tflite::Register_RQDKM_LAYER()},
      {"RQDKM_PATCH_STAGE", tflite::Register_RQDKM_LAYER()},
      {"RQDKM_MORPH_CONV_2D", tflite::Register_RQDKM_MORPH_CONV_2D()},
      {"RQDKM_CONV_2D", tflite::Register_RQDKM_CONV_2D()},
      {"RQDKM_DEPTHWISE_CONV_2D", tflite::Register_RQDKM_DEPTHWISE_CONV_2D()},
      {"RQDKM_FULLY_CONNECTED", tflite::Register_RQDKM_FULLY_CONNECTED()},
      {"RQDKM_ADD", tflite::Register_RQDKM_ADD()},
      {"RQDKM_MUL", tflite::Register_RQDKM_MUL()},
      {"RQDKM_AVERAGE_POOL_2D", tflite::Register_RQDKM_AVERAGE_POOL_2D()},
      {"RQDKM_MAX_POOL_2D", tflite::Register_RQDKM_MAX_POOL_2D()},
      {"RQDKM_MEAN", tflite::Register_RQDKM_MEAN()},
      {"RQDKM_PAD", tflite::Register_RQDKM_PAD()},
      {"RQDKM_CLIP", tflite::Register_RQDKM_CLIP()},
      {"RQDKM_TABLE", tflite::Register_RQDKM_TABLE()},
  };
  for (const auto &entry : operators) {
    if (resolver->AddCustom(entry.name, entry.registration) != kTfLiteOk) return false;
  }
  return true;
}
