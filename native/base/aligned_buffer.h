#pragma once
// One block of 64-byte aligned floats (a cache line, an AVX-512 vector).
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/error.h"

namespace ddad {

/// Gives the memory of a buffer back to where it came from.
struct FreeBlock {
  size_t mapped = 0;  // bytes that came from the system itself; 0: from the heap
  void operator()(float* p) const noexcept;
};

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Allocates `count` zeroed floats; throws Error("ERR_MEMORY") when the system has none.
  explicit AlignedBuffer(int64_t count);
  float* data() noexcept { return data_.get(); }
  const float* data() const noexcept { return data_.get(); }
  int64_t size() const noexcept { return count_; }
  int64_t bytes() const noexcept { return count_ * static_cast<int64_t>(sizeof(float)); }

 private:
  std::unique_ptr<float, FreeBlock> data_;
  int64_t count_ = 0;
};

}  // namespace ddad
