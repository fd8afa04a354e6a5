#pragma once
// What this machine can do at best, measured on the spot, with which the time of an op is compared.
#include <vector>

#include "base/aligned_buffer.h"
#include "device/device.h"

namespace ddad {

class CeilingProbe {
 public:
  /// Throws ERR_MEMORY. `device` must outlive the probe.
  explicit CeilingProbe(const Device& device);

  /// Measures both rates once more, in some 20 milliseconds, on all compute threads.
  void sample();

  /// Of each sample: float32 multiply-adds (two operations each) from registers, in FLOP/s.
  const std::vector<double>& flopsPerSecond() const { return flops_; }
  /// Of each sample: a copy between buffers larger than the caches, read and written bytes together, in bytes/s.
  const std::vector<double>& bytesPerSecond() const { return bytes_; }

 private:
  const Device& device_;
  AlignedBuffer from_, to_;
  std::vector<double> flops_, bytes_;
};

}  // namespace ddad
