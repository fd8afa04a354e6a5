#include "base/memory_limit.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "base/error.h"

namespace ddad {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
constexpr int64_t kSmallFloats = int64_t{1} << 24;  // 64 MiB: what is smaller is not asked about
constexpr int64_t kMostFloats = int64_t{1} << 48;   // sizes in bytes stay far below 2^63

/// The number in the first line of a file; kUnknown where it has none ("max").
uint64_t numberIn(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : kUnknown;
}

bool lists(const std::string& names, const std::string& name) {
  return ("," + names + ",").find("," + name + ",") != std::string::npos;
}

/// The group of this process in the hierarchy of either version that limits memory, as /proc/self/cgroup has it.
std::string groupOf(const std::string& root, bool second) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), next = line.find(':', first + 1);
    if (first == std::string::npos || next == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, next - first - 1);
    if (second ? controllers.empty() : lists(controllers, "memory")) return line.substr(next + 1);
  }
  return "";
}

/// The least that a control group allows of those which this process is in, its own and all above it.
uint64_t groupLimit(const std::string& root) {
  uint64_t least = kUnknown;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string skip, from, at, type, options;
    words >> skip >> skip >> skip >> from >> at;
    while (words >> skip && skip != "-") continue;
    words >> type >> skip >> options;
    const bool second = type == "cgroup2";
    if (!second && (type != "cgroup" || !lists(options, "memory"))) continue;
    // A container sees its group as the root of what is mounted; the others lie below that.
    std::string group = groupOf(root, second);
    const std::string above = from == "/" ? "" : from;
    group = group.starts_with(above + "/") ? group.substr(above.size()) : "";
    if (group.starts_with("/..")) group = "";  // outside of what is mounted
    for (;; group.resize(group.rfind('/'))) {
      const std::string folder = root + at + (group == "/" ? "" : group);
      for (const char* name : {"/memory.max", "/memory.high", "/memory.limit_in_bytes"})
        least = std::min(least, numberIn(folder + name));
      if (group.find('/') == std::string::npos) break;
    }
  }
  return least;
}

}  // namespace

uint64_t availableMemory(const std::string& root) {
  uint64_t free = 0;
  bool known = false;
  std::ifstream file(root + "/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    for (const std::string name : {"MemAvailable:", "SwapFree:"})
      if (line.starts_with(name)) {
        free += std::strtoull(line.c_str() + name.size(), nullptr, 10) * 1024;
        known = known || name[0] == 'M';
      }
  return std::min(known ? free : kUnknown, groupLimit(root));
}

void requireMemory(int64_t floats) {
  if (floats <= kSmallFloats) return;
  const uint64_t available = availableMemory();
  if (floats <= kMostFloats && static_cast<uint64_t>(floats) * sizeof(float) <= available) return;
  throw Error("ERR_MEMORY", "cannot allocate " + std::to_string(floats / (1 << 18)) + " MiB of memory, of which " +
                                std::to_string(available >> 20) + " MiB are free");
}

}  // namespace ddad
