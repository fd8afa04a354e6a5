#pragma once
// Who makes the ops of a device: one factory for the CPU (ops/cpu_ops.cpp), one for the GPU (ops/cuda_ops_cuda.cpp).
#include <memory>

#include "graph/op.h"

namespace ddad {

/// The ops of one device, a maker for each kind, and what the graph does to blocks of parameters there. Pointers are
/// the device's.
class DeviceOps {
 public:
  virtual ~DeviceOps() = default;
  virtual std::unique_ptr<Op> makeConv(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeDepthwiseConv(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeGroupNorm(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeLinear(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeTimestepEmbedding(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeLabelEmbedding(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeAttention(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeResample(OpContext context) const = 0;
  virtual std::unique_ptr<Op> makeSqueezeExcite(OpContext context) const = 0;

  /// Rounds n floats to bf16.
  virtual void toHalf(const Device& device, const float* from, int64_t n, void* to) const = 0;
  /// Sets *result to 1 where one of n floats is not finite; leaves it else.
  virtual void findNonFinite(const Device& device, const float* x, int64_t n, int32_t* result) const = 0;
};

/// Those of the CPU; defined in ops/, which this layer does not include.
const DeviceOps& cpuOps();

/// Those of a device.
const DeviceOps& opsOf(const Device& device);

/// Compiles a record for the device of the context; throws Error("ERR_CONFIG") where the shapes do not fit.
std::unique_ptr<Op> compileOp(OpContext context);

}  // namespace ddad
