#pragma once
// The parameters of one network, on the host and on the device that its plans run on.
#include <cstdint>
#include <memory>

#include "base/aligned_buffer.h"
#include "device/device_buffer.h"
#include "graph/graph.h"

namespace ddad {

/// A network's parameters in a device's memory and layout; blocks of Graph::parameterFloats() floats.
class DeviceParameters {
 public:
  /// Over `values` and, where they are wanted, `gradients` of the host where the device shares its memory; a copy of
  /// `values` else. `graph` must outlive it. Throws ERR_MEMORY.
  DeviceParameters(const Device& device, const Graph& graph, AlignedBuffer& values, AlignedBuffer& gradients,
                   bool withGradients);

  float* values() { return values_; }
  float* gradients() { return gradients_; }
  /// The values rounded to bf16; null unless the device computes in it.
  void* half() { return half_.data(); }
  int64_t floats() const { return graph_.parameterFloats(); }
  const Device& device() const { return *device_; }
  /// Makes half() follow the values, after these have changed.
  void round();

  /// Between a block of the host, as checkpoints lay it out, and one of the device; complete when they return.
  void toDevice(const float* host, float* block) const;
  void toHost(const float* block, float* host) const;
  /// Bytes in the device's memory.
  int64_t bytes() const;

 private:
  std::shared_ptr<const Device> device_;
  const Graph& graph_;
  DeviceBuffer deviceValues_, deviceGradients_, half_;
  float *values_, *gradients_;
};

/// What a graph's parameters are, on the host: in the names and layout of checkpoints.
struct ParameterBlock {
  ParameterBlock() = default;
  explicit ParameterBlock(AlignedBuffer v) : values(std::move(v)) {}
  ParameterBlock(AlignedBuffer v, AlignedBuffer g) : values(std::move(v)), gradients(std::move(g)) {}

  AlignedBuffer values;
  AlignedBuffer gradients;  // empty where nothing is trained

  /// The same on a device; made when first asked for. A block is on one device at a time.
  DeviceParameters& on(const Device& device, const Graph& graph, bool withGradients);
  /// Brings values that the host has changed to where they have been copied to.
  void upload();
  /// Brings those of the device to the host.
  void downloadValues();
  void downloadGradients();
  /// Bytes in the memory of a device of its own; 0 where there is none.
  int64_t deviceBytes() const { return device_ ? device_->bytes() : 0; }

 private:
  std::shared_ptr<DeviceParameters> device_;
};

}  // namespace ddad
