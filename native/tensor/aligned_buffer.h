#pragma once
// One block of 64-byte aligned floats (a cache line, an AVX-512 vector).
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "tensor/error.h"
#include "tensor/memory_limit.h"

namespace ddad {

class AlignedBuffer {
  static constexpr size_t kHugePage = size_t{1} << 21;

 public:
  AlignedBuffer() = default;
  /// Allocates `count` zeroed floats; throws Error("ERR_MEMORY") when the system has none.
  explicit AlignedBuffer(int64_t count) : count_(count) {
    if (count <= 0) return;
    requireMemory(count);
    const bool large = static_cast<size_t>(count) * sizeof(float) >= 2 * kHugePage;
    const size_t unit = large ? kHugePage : 64;
    const auto bytes = (static_cast<size_t>(count) * sizeof(float) + unit - 1) / unit * unit;
    data_.reset(static_cast<float*>(std::aligned_alloc(unit, bytes)));
    if (!data_) throw Error("ERR_MEMORY", "cannot allocate " + std::to_string(bytes >> 20) + " MiB of memory");
#if defined(MADV_HUGEPAGE)
    // Fewer page faults at the start, fewer misses of the address cache later; refused is no harm.
    if (large) ::madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 0, bytes);
  }
  float* data() noexcept { return data_.get(); }
  const float* data() const noexcept { return data_.get(); }
  int64_t size() const noexcept { return count_; }
  int64_t bytes() const noexcept { return count_ * static_cast<int64_t>(sizeof(float)); }

 private:
  struct Free {
    void operator()(float* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t count_ = 0;
};

}  // namespace ddad
