/* SPDX-License-Identifier: Apache-2.0 */
/* Runs an exported model on this computer: int8 inputs on stdin, int8 outputs on stdout, sample after sample. On a
   microcontroller the model is an array, declared alignas(16), and the rest is the same. */
#include <stdio.h>

#include <vector>

#include "rqdkm_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace model = MODEL; /* rqdkm_<name of the model's file> */

namespace {

constexpr size_t kRecords = 32 * 1024; /* what TFLM keeps of tensors and nodes, generously for 64 bits */
alignas(16) uint8_t arena[model::kPlannedArenaBytes + kRecords];

std::vector<uint64_t> ReadFile(const char *name) {
  std::vector<uint64_t> words;
  if (FILE *const file = fopen(name, "rb")) {
    for (uint64_t word = 0; fread(&word, 1, sizeof word, file) > 0; word = 0) words.push_back(word);
    fclose(file);
  }
  return words;
}

}  // namespace

int main(int argc, char **argv) {
  const std::vector<uint64_t> file = ReadFile(argc > 1 ? argv[1] : MODEL_FILE);
  if (file.empty()) return 2;

  static tflite::MicroMutableOpResolver<model::kOperators> resolver;
  if (model::AddOperators(&resolver) != kTfLiteOk) return 3;
  tflite::MicroInterpreter interpreter(tflite::GetModel(file.data()), resolver, arena, sizeof arena);
  if (interpreter.AllocateTensors() != kTfLiteOk) return 4;

  TfLiteTensor *const input = interpreter.input(0), *const output = interpreter.output(0);
  while (fread(input->data.int8, 1, input->bytes, stdin) == input->bytes) {
    if (interpreter.Invoke() != kTfLiteOk) return 5;
    fwrite(output->data.int8, 1, output->bytes, stdout);
  }
  return 0;
}
