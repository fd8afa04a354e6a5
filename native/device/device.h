#pragma once
// Where the engine computes. A device is opened by name, shared by every model that runs on it, and outlives them.
#include <memory>
#include <string>

namespace ddad {

enum class DeviceKind { kCpu, kCuda };

class Device {
 public:
  Device(DeviceKind kind, int threads) : kind_(kind), threads_(threads) {}
  virtual ~Device() = default;
  DeviceKind kind() const { return kind_; }
  /// Compute threads of the CPU device.
  int threads() const { return threads_; }

 private:
  DeviceKind kind_;
  int threads_;
};

/// Opens "cpu", "auto" (the best there is) or "cuda"; `threads` 0 means one for each processor that this process may
/// use. Throws ERR_OPTION for an unknown name or a negative count, ERR_DEVICE where the device cannot be had.
std::shared_ptr<Device> openDevice(const std::string& name, int threads);

/// Processors that this process may use.
int availableProcessors();

}  // namespace ddad
