#pragma once
#include <cstdint>

namespace ddad {

/// Lays pieces of one scratch block out, each at a multiple of 256 bytes from its start.
class ScratchLayout {
 public:
  /// Where a piece of so many floats lies.
  int64_t take(int64_t floats) {
    const int64_t at = floats_;
    floats_ += (floats + 63) / 64 * 64;
    return at;
  }
  int64_t floats() const { return floats_; }

 private:
  int64_t floats_ = 0;
};

/// Floats that n values take.
inline int64_t floatsOf(int64_t n, bool half) { return half ? (n + 1) / 2 : n; }

}  // namespace ddad
