// libFuzzer's side: one program holds all targets, DDAD_FUZZ_TARGET names the one to run. With DDAD_FUZZ_SEEDS it
// writes the inputs to begin with into that folder and ends.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "mutate.h"
#include "target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t limit);

namespace {

using ddad::fuzz::Target;

const Target* chosen = nullptr;

void writeSeeds(const std::filesystem::path& folder) {
  int number = 0;
  for (const std::string& seed : chosen->seeds()) {
    std::ofstream out(folder / ("seed-" + std::to_string(number++)), std::ios::binary);
    out << seed;
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  ::setenv("DDAD_AUTOTUNE", "off", 1);
  const char* name = std::getenv("DDAD_FUZZ_TARGET");
  for (const Target& target : ddad::fuzz::targets())
    if (name && std::strcmp(name, target.name) == 0) chosen = &target;
  if (!chosen) {
    std::fprintf(stderr, "DDAD_FUZZ_TARGET: expected one of");
    for (const Target& target : ddad::fuzz::targets()) std::fprintf(stderr, " %s", target.name);
    std::fprintf(stderr, "\n");
    std::exit(2);
  }
  if (const char* folder = std::getenv("DDAD_FUZZ_SEEDS")) {
    writeSeeds(folder);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  chosen->run({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t limit, unsigned seed) {
  const std::string before(reinterpret_cast<const char*>(data), size);
  const std::string after = ddad::fuzz::mutated(chosen->format, before, limit, seed, LLVMFuzzerMutate);
  if (!after.empty()) std::memcpy(data, after.data(), after.size());
  return after.size();
}
