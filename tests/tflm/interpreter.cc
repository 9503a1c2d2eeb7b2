/* SPDX-License-Identifier: Apache-2.0 */
/* The wheel's interpreter, linked: runs a model and compares its outputs; then damages the options of its nodes, which
   must be refused or at least do no harm (the sanitizers watch).
     interpreter MODEL INPUT OUTPUT INPUTS OUTPUTS SEED ROUNDS [OFFSET BYTES]...
   INPUT and OUTPUT: raw bytes of one sample; INPUTS, OUTPUTS: how many tensors; OFFSET, BYTES: where the options of a
   node stand in the file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "python/tflite_micro/python_ops_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

extern "C" bool RqdkmRegisterOperators(tflite::PythonOpsResolver *resolver);

namespace {

constexpr size_t kArena = 1 << 20;

std::vector<uint8_t> ReadFile(const char *name) {
  std::vector<uint8_t> bytes;
  if (FILE *const file = fopen(name, "rb")) {
    for (int c = fgetc(file); c != EOF; c = fgetc(file)) bytes.push_back(static_cast<uint8_t>(c));
    fclose(file);
  }
  return bytes;
}

struct Release {
  void operator()(uint8_t *memory) const { free(memory); }
};
using Memory = std::unique_ptr<uint8_t, Release>;

Memory Allocate(size_t bytes) { return Memory(static_cast<uint8_t *>(aligned_alloc(16, (bytes + 15) / 16 * 16))); }

/* One inference; `output` gets all outputs one after the other. */
TfLiteStatus Run(const uint8_t *model, const tflite::MicroOpResolver &resolver, const std::vector<uint8_t> &input,
                 size_t inputs, size_t outputs, std::vector<uint8_t> *output) {
  const Memory arena = Allocate(kArena);
  memset(arena.get(), 0xa5, kArena);
  tflite::MicroInterpreter interpreter(tflite::GetModel(model), resolver, arena.get(), kArena);
  if (interpreter.AllocateTensors() != kTfLiteOk) return kTfLiteError;
  size_t at = 0;
  for (size_t i = 0; i < inputs; i++) {
    const TfLiteTensor *const tensor = interpreter.input(i);
    memcpy(tensor->data.data, input.data() + at, tensor->bytes);
    at += tensor->bytes;
  }
  if (interpreter.Invoke() != kTfLiteOk) return kTfLiteError;
  for (size_t i = 0; i < outputs; i++) {
    const TfLiteTensor *const tensor = interpreter.output(i);
    output->insert(output->end(), tensor->data.uint8, tensor->data.uint8 + tensor->bytes);
  }
  return kTfLiteOk;
}

uint32_t state = 1;
uint32_t Random(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return static_cast<uint32_t>((uint64_t{state} * below) >> 32);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 8) return 2;
  const std::vector<uint8_t> file = ReadFile(argv[1]), input = ReadFile(argv[2]), wanted = ReadFile(argv[3]);
  const size_t inputs = static_cast<size_t>(atoi(argv[4])), outputs = static_cast<size_t>(atoi(argv[5]));
  state = static_cast<uint32_t>(atoi(argv[6]));
  const int rounds = atoi(argv[7]);
  static tflite::PythonOpsResolver resolver;
  if (!RqdkmRegisterOperators(&resolver)) return 3;
  const Memory model = Allocate(file.size());
  memcpy(model.get(), file.data(), file.size());
  std::vector<uint8_t> output;
  if (Run(model.get(), resolver, input, inputs, outputs, &output) != kTfLiteOk) return 4;
  if (output != wanted) return 5;
  int refused = 0;
  for (int round = 0; round < rounds; round++) {
    const int node = 8 + 2 * static_cast<int>(Random(static_cast<uint32_t>(argc - 8) / 2));
    const size_t offset = static_cast<size_t>(atoll(argv[node]));
    const uint32_t bytes = static_cast<uint32_t>(atoll(argv[node + 1]));
    memcpy(model.get(), file.data(), file.size());
    for (uint32_t i = Random(3) + 1; i > 0; i--) {
      model.get()[offset + Random(bytes)] = static_cast<uint8_t>(Random(4) == 0 ? Random(256) : Random(16));
    }
    output.clear();
    refused += Run(model.get(), resolver, input, inputs, outputs, &output) != kTfLiteOk;
  }
  printf("%d of %d damaged models refused\n", refused, rounds);
  return 0;
}
