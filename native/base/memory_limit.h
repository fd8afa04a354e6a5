#pragma once
// Whether a block of memory can be had, asked before it is: Linux hands out more than there is and ends a process that
// then writes to it.
#include <cstdint>
#include <string>

namespace ddad {

/// Bytes that this process can still fill: free and reclaimable memory and swap, at most what its control group and all
/// above it allow. The largest number where the system does not say. `root` is where the system's files are.
uint64_t availableMemory(const std::string& root = "");

/// Throws Error("ERR_MEMORY") where `floats` floats are more than can be had. Asks the system about large blocks only.
void requireMemory(int64_t floats);

}  // namespace ddad
