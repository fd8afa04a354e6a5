#pragma once
// A graph compiled for one (batch, height, width): a list of kernels over planned memory. Nothing is allocated and no
// shape is looked at after construction.
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "device/device_buffer.h"
#include "graph/memory_layout.h"
#include "graph/op.h"
#include "graph/parameter_block.h"

namespace ddad {

struct PlanOptions {
  int64_t batch = 1, height = 0, width = 0;
  bool training = false;        // keep what backward needs
  bool paramGradients = true;   // in training: gradients of the parameters
  bool inputGradients = false;  // in training: gradients of the spatial inputs
  bool float32 = false;         // activations stay float32, whatever the device's precision
  bool halfEnds = false;        // inputs and outputs are as those between them, for tests of an op alone
};

/// Weights in the layouts of the kernels; of no use before `ready`: what packs them can be stopped.
struct PackedWeights : DeviceBuffer {
  using DeviceBuffer::DeviceBuffer;
  bool ready = false;
};

/// The packed weights of one op.
struct PackedPart {
  PackedLayout layout;
  int64_t floats;
  bool operator==(const PackedPart&) const = default;
};

/// Memory that plans of one graph hand on: the activations of plans that never run at the same time, and the packed
/// weights, which hardly depend on the size of the image. A plan takes what fits and leaves what it had to allocate.
struct PlanMemory {
  std::shared_ptr<DeviceBuffer> arena;
  std::shared_ptr<PackedWeights> packed;
  std::vector<PackedPart> packedParts;  // what `packed` holds, an op each
};

class Plan {
 public:
  /// `graph`, `device` and the blocks must outlive the plan. With `memory`, values are kept within one run only, and
  /// the weights must not have changed since it was filled. Throws ERR_CONFIG where the size does not fit the graph,
  /// ERR_MEMORY where the arena cannot be had.
  Plan(const Device& device, const Graph& graph, const PlanOptions& options, ParameterBlock& parameters,
       PlanMemory* memory = nullptr);

  /// Bytes of activations and of packed weights that a plan would take, without taking them, and what forward computes.
  /// Kernels are not measured for it, so that those chosen later may need other scratch.
  struct Needs {
    int64_t activations, packed;
    double flops;
  };
  static Needs needs(const Device& device, const Graph& graph, const PlanOptions& options);

  /// Value of an input or output tensor, float32, on the device.
  float* value(TensorId id) const { return values_[static_cast<size_t>(id)]; }
  /// Gradient of an output (filled in by the caller before backward) or of an input, likewise.
  float* gradient(TensorId id) const { return gradients_[static_cast<size_t>(id)]; }
  /// From and to the host, whole tensors; complete when they return.
  void write(TensorId id, const float* from) const;
  void read(TensorId id, float* to) const;
  void writeGradient(TensorId id, const float* from) const;
  void readGradient(TensorId id, float* to) const;
  const Shape& shape(TensorId id) const { return shapes_[static_cast<size_t>(id)]; }

  /// Brings changed weights into the kernels' layouts.
  void prepare();
  /// Enqueued on a device that works by itself; a cancelled call throws ERR_ABORTED and leaves values unspecified.
  void forward(const Cancel& cancel);
  void backward(const Cancel& cancel);

  int64_t activationBytes() const { return arenaFloats_ * static_cast<int64_t>(sizeof(float)); }
  int64_t packedBytes() const { return packed_->bytes(); }
  /// Forward FLOPs, a multiply-add counted as two.
  double flops() const;
  const std::vector<std::unique_ptr<Op>>& ops() const { return ops_; }
  const PlanOptions& options() const { return options_; }
  DeviceParameters& parameters() const { return *onDevice_; }

 private:
  Plan(const Device& device, const Graph& graph, const PlanOptions& options);
  void compile();
  bool isHalf(TensorId id) const;
  MemoryLayout layOut() const;
  void takeArena(int64_t floats, PlanMemory* memory);
  int64_t packedFloats() const;
  void takePacked(PlanMemory* memory);
  void bind(const MemoryLayout& layout);
  OpBuffers buffersOf(size_t i, const MemoryLayout& layout) const;

  const Device& device_;
  const Graph& graph_;
  PlanOptions options_;
  DeviceParameters* onDevice_ = nullptr;  // null where only the layout is asked for
  std::vector<Shape> shapes_;
  std::vector<bool> needsGradient_, half_;
  std::shared_ptr<DeviceBuffer> arena_;  // before the ops that point into them
  std::shared_ptr<PackedWeights> packed_;
  int64_t arenaFloats_ = 0;
  bool shared_ = false;  // the packed weights came from another plan
  std::vector<float*> values_, gradients_;
  std::vector<std::unique_ptr<Op>> ops_;
  std::unique_ptr<Recording> forwardRecording_, backwardRecording_;  // null where the device gains nothing by them
};

}  // namespace ddad
