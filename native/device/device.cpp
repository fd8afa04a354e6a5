#include "device/device.h"

#include <sched.h>

#include <thread>

#include "base/error.h"

namespace ddad {

int availableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1 : static_cast<int>(n);
}

const char* precisionName(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return "float32";
    case Precision::kTf32:
      return "tf32";
    case Precision::kBf16:
      return "bf16";
  }
  return "unknown";
}

Precision precisionOf(const std::string& name) {
  for (const Precision precision : {Precision::kFloat32, Precision::kTf32, Precision::kBf16})
    if (name == precisionName(precision)) return precision;
  throw Error("ERR_OPTION", "precision: expected float32, tf32 or bf16, got \"" + name.substr(0, 40) + "\"");
}

}  // namespace ddad
