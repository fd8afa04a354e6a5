#pragma once
#include <string>

#include "nlohmann/json.hpp"

namespace ddad::bench {

/// Base64 of `bytes` bytes.
std::string base64(const void* data, size_t bytes);
/// A field of /proc/self/status in KiB; 0 where it is not there.
int64_t processStatusKb(const char* field);

}  // namespace ddad::bench
