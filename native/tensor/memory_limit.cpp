#include "tensor/memory_limit.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#include "tensor/error.h"

namespace ddad {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
constexpr int64_t kSmallFloats = int64_t{1} << 24;  // 64 MiB: what is smaller is not asked about
constexpr int64_t kMostFloats = int64_t{1} << 48;   // sizes in bytes stay far below 2^63

/// The number in the first line of a file; kUnknown where it has none ("max").
uint64_t numberIn(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : kUnknown;
}

}  // namespace

uint64_t availableMemory() {
  uint64_t free = 0;
  bool known = false;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    for (const std::string name : {"MemAvailable:", "SwapFree:"})
      if (line.starts_with(name)) {
        free += std::strtoull(line.c_str() + name.size(), nullptr, 10) * 1024;
        known = known || name[0] == 'M';
      }
  uint64_t least = known ? free : kUnknown;
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"})
    least = std::min(least, numberIn(path));
  return least;
}

void requireMemory(int64_t floats) {
  if (floats <= kSmallFloats) return;
  const uint64_t available = availableMemory();
  if (floats <= kMostFloats && static_cast<uint64_t>(floats) * sizeof(float) <= available) return;
  throw Error("ERR_MEMORY", "cannot allocate " + std::to_string(floats / (1 << 18)) + " MiB of memory, of which " +
                                std::to_string(available >> 20) + " MiB are free");
}

}  // namespace ddad
