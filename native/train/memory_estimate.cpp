#include "train/memory_estimate.h"

#include <algorithm>

#include "base/error.h"
#include "device/device_buffer.h"
#include "graph/plan.h"

namespace ddad {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kMostBatch = 65536;

std::string gigabytes(int64_t bytes) {
  const int64_t tenths = (bytes + 50'000'000) / 100'000'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GB";
}

}  // namespace

TrainingMemory trainingMemory(const Device& device, const TrainerConfig& config, const UNet& net,
                              const FeatureSource* features, int64_t batch) {
  TrainingMemory memory;
  const int64_t floats = net.graph.parameterFloats();
  const bool half = device.precision() == Precision::kBf16;
  memory.parameters = floats * (half ? 10 : 8);  // values, gradients and, in bf16, the values rounded
  memory.optimizer = floats * 3 * kFloat;
  PlanOptions options{batch, config.size, config.size};
  options.training = true;
  const Plan::Needs unet = Plan::needs(device, net.graph, options);
  memory.activations = unet.activations;
  memory.packedWeights = unet.packed;
  const int64_t pixels = config.size * config.size * config.unet.inChannels,
                fine = pixels * config.features.scale * config.features.scale;
  memory.activations += UploadBuffer::deviceFloats(device, batch * fine) * kFloat;  // the images
  if (!features) return memory;
  const bool cached = config.samplesRepeat && device.sharesHostMemory();  // as the trainer does
  PlanOptions backbone{cached ? 1 : batch, config.size * config.features.scale, config.size * config.features.scale};
  backbone.float32 = true;
  const Plan::Needs needs = Plan::needs(device, features->backbone.graph, backbone);
  memory.parameters += features->backbone.graph.parameterFloats() * (half && !device.sharesHostMemory() ? 6 : 4);
  memory.activations += needs.activations;
  memory.packedWeights += needs.packed;
  memory.activations += batch * (config.size / 4) * (config.size / 4) * features->channels() * kFloat;
  if (config.features.scale > 1) memory.activations += batch * pixels * kFloat;
  return memory;
}

int64_t largestBatch(const Device& device, const TrainerConfig& config, const UNet& net, const FeatureSource* features,
                     int64_t bytes) {
  const auto fits = [&](int64_t batch) {
    return trainingMemory(device, config, net, features, batch).total() <= bytes;
  };
  if (!fits(1)) return 0;
  // All but a constant grows with the batch: start where a line through two points says, then walk.
  const int64_t one = trainingMemory(device, config, net, features, 1).total(),
                two = trainingMemory(device, config, net, features, 2).total();
  int64_t batch = std::clamp((bytes - one) / std::max<int64_t>(two - one, 1) + 1, int64_t{1}, kMostBatch);
  while (batch > 1 && !fits(batch)) --batch;
  while (batch < kMostBatch && fits(batch + 1)) ++batch;
  return batch;
}

void requireTrainingMemory(const Device& device, const TrainerConfig& config, const UNet& net,
                           const FeatureSource* features) {
  const int64_t available = device.availableBytes();
  const int64_t needed = trainingMemory(device, config, net, features, config.batch).total();
  if (needed <= available) return;
  const int64_t largest = largestBatch(device, config, net, features, available);
  throw Error("ERR_MEMORY", "training with a batch of " + std::to_string(config.batch) + " takes " + gigabytes(needed) +
                                " of the device's memory, and it has " + gigabytes(available) + " left; " +
                                (largest > 0 ? "the largest batch that fits is " + std::to_string(largest)
                                             : std::string("not even a batch of 1 fits")));
}

}  // namespace ddad
