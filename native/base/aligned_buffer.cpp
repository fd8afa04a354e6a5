#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/cancel.h"
#include "base/memory_limit.h"

namespace ddad {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kPiece = size_t{1} << 26;  // between two looks at who wants to stop
#if defined(__SANITIZE_ADDRESS__)
// The sanitizer guards what comes from the heap.
constexpr size_t kMapped = static_cast<size_t>(-1);
#elif defined(__has_feature)
constexpr size_t kMapped = __has_feature(address_sanitizer) ? static_cast<size_t>(-1) : size_t{1} << 18;
#else
// Larger blocks come from the system, since the heap keeps what it is given back: a model that is disposed of would
// leave megabytes behind, now and then.
constexpr size_t kMapped = size_t{1} << 18;
#endif

/// Zeroed memory of the system, aligned to `unit`; null where there is none.
void* map(size_t bytes, size_t unit) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS;
  void* const got = ::mmap(nullptr, bytes + unit, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (got == MAP_FAILED) return nullptr;
  auto* const first = static_cast<char*>(got);
  const size_t before = (unit - reinterpret_cast<uintptr_t>(first) % unit) % unit;
  if (before > 0) ::munmap(first, before);
  ::munmap(first + before + bytes, unit - before);
  return first + before;
}

}  // namespace

AlignedBuffer::AlignedBuffer(int64_t count) : count_(count) {
  if (count <= 0) return;
  requireMemory(count);
  const size_t asked = static_cast<size_t>(count) * sizeof(float);
  const bool mapped = asked >= kMapped, huge = asked >= 2 * kHugePage;
  const size_t unit = huge ? kHugePage : mapped ? size_t{4096} : size_t{64};
  const size_t bytes = (asked + unit - 1) / unit * unit;
  void* const block = mapped ? map(bytes, unit) : std::aligned_alloc(unit, bytes);
  if (!block) throw Error("ERR_MEMORY", "cannot allocate " + std::to_string(bytes >> 20) + " MiB of memory");
#if defined(MADV_HUGEPAGE)
  // Fewer page faults at the start, fewer misses of the address cache later; refused is no harm.
  if (huge) ::madvise(block, bytes, MADV_HUGEPAGE);
#endif
  data_ = {static_cast<float*>(block), FreeBlock{mapped ? bytes : 0}};
  // Also what the system has zeroed: its pages are there then, before a step needs them. Gigabytes take seconds.
  for (size_t at = 0; at < bytes; at += kPiece) {
    checkCancelled();
    std::memset(static_cast<char*>(block) + at, 0, std::min(kPiece, bytes - at));
  }
}

void FreeBlock::operator()(float* p) const noexcept {
  if (mapped > 0)
    ::munmap(p, mapped);
  else
    std::free(p);
}

}  // namespace ddad
