#pragma once
// Fuzz targets: functions that take any bytes and must come back. One list serves libFuzzer (main.cpp) and the replay
// of the kept corpora in the normal native tests (replay_test.cpp).
#include <string>
#include <string_view>
#include <vector>

namespace ddad::fuzz {

/// What inputs of a target look like: says how to mutate them.
enum class Format {
  kText,         // anything
  kJson,         // a JSON text
  kSafetensors,  // a safetensors file, whose data may be cut short (see openInput)
};

struct Target {
  const char* name;
  Format format;
  void (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();  // inputs to begin with
};

std::vector<Target>& targets();

struct Registered {
  explicit Registered(const Target& target) { targets().push_back(target); }
};

}  // namespace ddad::fuzz
