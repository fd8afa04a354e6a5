#pragma once
#include "device/device.h"

namespace ddad {

/// The processor: its memory is the host's, and nothing is enqueued.
class CpuDevice : public Device {
 public:
  explicit CpuDevice(int threads) : Device(threads, Precision::kFloat32) {}
  bool sharesHostMemory() const override { return true; }
  bool weightsChannelsLast() const override { return false; }
  std::shared_ptr<Device> share(int threads) const override { return std::make_shared<CpuDevice>(threads); }
  int concurrentImages() const override { return threads(); }
  void* allocate(int64_t bytes) const override;
  void release(void* memory) const noexcept override;
  void* allocateStaging(int64_t bytes) const override { return allocate(bytes); }
  void releaseStaging(void* memory) const noexcept override { release(memory); }
  void upload(void* to, const void* from, int64_t bytes) const override { copy(to, from, bytes); }
  void download(void* to, const void* from, int64_t bytes) const override { copy(to, from, bytes); }
  void copy(void* to, const void* from, int64_t bytes) const override;
  void clear(void* to, int64_t bytes) const override;
  void synchronize() const override {}
  std::unique_ptr<AsyncUpload> asyncUpload() const override { return nullptr; }
  std::unique_ptr<Recording> record() const override { return nullptr; }
  int64_t availableBytes() const override;
  const DeviceFunctions& functions() const override;
};

}  // namespace ddad
