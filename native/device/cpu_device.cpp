#include "device/cpu_device.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <unordered_map>

#include "base/aligned_buffer.h"
#include "base/memory_limit.h"

namespace ddad {
namespace {

/// Blocks handed out, by their address. Never destroyed: buffers of the last moment still give theirs back.
struct Blocks {
  std::mutex mutex;
  std::unordered_map<void*, AlignedBuffer> all;
};

Blocks& blocks() {
  static auto* const instance = new Blocks;
  return *instance;
}

}  // namespace

void* CpuDevice::allocate(int64_t bytes) const {
  if (bytes <= 0) return nullptr;
  AlignedBuffer buffer((bytes + 3) / 4);
  void* const memory = buffer.data();
  const std::lock_guard lock(blocks().mutex);
  blocks().all.emplace(memory, std::move(buffer));
  return memory;
}

void CpuDevice::release(void* memory) const noexcept {
  AlignedBuffer buffer;  // freed outside the lock
  const std::lock_guard lock(blocks().mutex);
  const auto it = blocks().all.find(memory);
  if (it == blocks().all.end()) return;
  buffer = std::move(it->second);
  blocks().all.erase(it);
}

void CpuDevice::copy(void* to, const void* from, int64_t bytes) const {
  if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void CpuDevice::clear(void* to, int64_t bytes) const {
  if (bytes > 0) std::memset(to, 0, static_cast<size_t>(bytes));
}

const DeviceFunctions& CpuDevice::functions() const {
  static const DeviceFunctions none;
  return none;
}

int64_t CpuDevice::availableBytes() const {
  return static_cast<int64_t>(std::min<uint64_t>(availableMemory(), std::numeric_limits<int64_t>::max()));
}

}  // namespace ddad
