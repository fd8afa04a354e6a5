#pragma once
// Graphs of cuDNN operations, compiled once per process and GPU and shared by the ops that have the same one.
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/cuda/device_cuda.h"

namespace ddad {

enum class DnnType { kFloat32, kBf16 };
inline int64_t dnnBytes(DnnType type) { return type == DnnType::kBf16 ? 2 : 4; }
inline DnnType dnnType(bool half) { return half ? DnnType::kBf16 : DnnType::kFloat32; }

/// What products may be computed in: exact float32, or whatever tensor cores make of the operands.
enum class DnnMath { kFloat32, kTensorCores };

/// A tensor of a graph and where it lies.
struct DnnOperand {
  int64_t id;
  const void* data;
};

/// One compiled graph: an engine of cuDNN's, chosen.
class DnnGraph {
 public:
  virtual ~DnnGraph() = default;
  /// Floats of scratch that run needs, room to align it included.
  int64_t workspaceFloats() const { return workspaceBytes_ > 0 ? (workspaceBytes_ + 3) / 4 + kAlignment / 4 : 0; }
  /// cuDNN's name of the engine.
  const std::string& engine() const { return engine_; }
  /// What it computes.
  const std::string& key() const { return key_; }
  /// Microseconds that it took when it was chosen; 0 where nothing was measured.
  int64_t microseconds() const { return microseconds_; }
  /// Enqueues it; `operands` names each tensor of the graph once. Throws ERR_DEVICE.
  virtual void run(const CudaDevice& device, const std::vector<DnnOperand>& operands, float* workspace) const = 0;

 protected:
  static constexpr int64_t kAlignment = 256;
  int64_t workspaceBytes_ = 0, microseconds_ = 0;
  std::string key_, engine_;
};

/// `workspace` moved up to the alignment that cuDNN and cuBLAS want: 64 floats of room must lie behind it.
inline void* alignedWorkspace(float* workspace) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace) + 255) & ~uintptr_t{255});
}

}  // namespace ddad
