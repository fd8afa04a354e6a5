#include "graph/parameter_block.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "graph/device_ops.h"

namespace ddad {
namespace {

/// Whether a parameter is a convolution's with more than one tap: [out, in, kernel, kernel].
bool hasTaps(const ParamSpec& p) { return p.shape.size() == 4 && p.shape[2] * p.shape[3] > 1; }

/// From [rows, columns, taps] to [rows, taps, columns].
void swapLast(const float* from, int64_t rows, int64_t columns, int64_t taps, float* to) {
  for (int64_t r = 0; r < rows; ++r, from += columns * taps, to += columns * taps)
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t t = 0; t < taps; ++t) to[t * columns + c] = from[c * taps + t];
}

}  // namespace

DeviceParameters::DeviceParameters(const Device& device, const Graph& graph, AlignedBuffer& values,
                                   AlignedBuffer& gradients, bool withGradients)
    : device_(device.shared_from_this()), graph_(graph), values_(values.data()), gradients_(gradients.data()) {
  if (device.sharesHostMemory()) return;
  deviceValues_ = DeviceBuffer(device, floats());
  if (withGradients) deviceGradients_ = DeviceBuffer(device, floats());
  if (device.precision() == Precision::kBf16) half_ = DeviceBuffer(device, (floats() + 1) / 2);
  values_ = deviceValues_.data();
  gradients_ = deviceGradients_.data();
  toDevice(values.data(), values_);
  round();
}

void DeviceParameters::round() {
  if (half_.size() == 0) return;
  opsOf(*device_).toHalf(*device_, values_, floats(), half_.data());
}

void DeviceParameters::toDevice(const float* host, float* block) const {
  if (!device_->weightsChannelsLast()) {
    device_->upload(block, host, floats() * static_cast<int64_t>(sizeof(float)));
    return device_->synchronize();
  }
  AlignedBuffer arranged(floats());
  std::copy_n(host, floats(), arranged.data());
  for (const ParamSpec& p : graph_.params())
    if (hasTaps(p))
      swapLast(host + p.offset, p.shape[0], p.shape[1], p.shape[2] * p.shape[3], arranged.data() + p.offset);
  device_->upload(block, arranged.data(), arranged.bytes());
  device_->synchronize();
}

void DeviceParameters::toHost(const float* block, float* host) const {
  device_->download(host, block, floats() * static_cast<int64_t>(sizeof(float)));
  device_->synchronize();
  if (!device_->weightsChannelsLast()) return;
  std::vector<float> arranged;
  for (const ParamSpec& p : graph_.params()) {
    if (!hasTaps(p)) continue;
    arranged.assign(host + p.offset, host + p.offset + p.size());
    swapLast(arranged.data(), p.shape[0], p.shape[2] * p.shape[3], p.shape[1], host + p.offset);
  }
}

int64_t DeviceParameters::bytes() const { return deviceValues_.bytes() + deviceGradients_.bytes() + half_.bytes(); }

DeviceParameters& ParameterBlock::on(const Device& device, const Graph& graph, bool withGradients) {
  const auto sameMemory = [&](const Device& other) {
    return &other == &device || (other.sharesHostMemory() && device.sharesHostMemory());
  };
  const bool fits = device_ && sameMemory(device_->device()) && (!withGradients || device_->gradients() != nullptr);
  if (!fits) device_ = std::make_shared<DeviceParameters>(device, graph, values, gradients, withGradients);
  return *device_;
}

void ParameterBlock::upload() {
  if (!device_ || device_->device().sharesHostMemory()) return;
  device_->toDevice(values.data(), device_->values());
  device_->round();
}

void ParameterBlock::downloadValues() {
  if (device_ && !device_->device().sharesHostMemory()) device_->toHost(device_->values(), values.data());
}

void ParameterBlock::downloadGradients() {
  if (!device_ || device_->device().sharesHostMemory()) return;
  if (gradients.size() == 0) gradients = AlignedBuffer(device_->floats());
  device_->toHost(device_->gradients(), gradients.data());
}

}  // namespace ddad
