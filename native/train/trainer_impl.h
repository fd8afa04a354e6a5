#pragma once
// What a trainer is made of; internal to train/. Its parts: trainer_initialize.cpp makes it and fills its weights,
// trainer_step.cpp trains, trainer_checkpoint.cpp writes and reads checkpoints.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backbone/features.h"
#include "device/device_buffer.h"
#include "graph/plan.h"
#include "nlohmann/json.hpp"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "train/feature_cache.h"
#include "train/memory_estimate.h"
#include "train/step_result.h"
#include "train/trainer_config.h"
#include "unet/unet.h"

namespace ddad {

/// The features that a network with a head for them is trained on; null for another.
std::unique_ptr<FeatureSource> openTrainingFeatures(const TrainerConfig& config, const UNet& net,
                                                    const std::string& backbone);

struct MemoryCheck {
  MemoryCheck(const Device& device, const TrainerConfig& config, const UNet& net, const FeatureSource* features) {
    requireTrainingMemory(device, config, net, features);
  }
};

/// A block of the device on the host: itself, or a copy.
class HostBlock {
 public:
  const float* of(const DeviceParameters& parameters, const DeviceBuffer& block) {
    if (parameters.device().sharesHostMemory()) return block.data();
    if (copy_.size() == 0) copy_ = AlignedBuffer(block.size());
    parameters.toHost(block.data(), copy_.data());
    return copy_.data();
  }

 private:
  AlignedBuffer copy_;
};

class TrainerImpl {
 public:
  TrainerImpl(std::shared_ptr<Device> device, const nlohmann::json& json, const std::string& backbone);

  StepResult step(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel);
  StepResult stepWithNoise(const float* pixels, const int32_t* labels, const int32_t* t, const float* noise, double lr,
                           const Cancel& cancel);
  void observe(const float* pixels, const Cancel& cancel);

  int64_t imageFloats() const {
    const int64_t side = config_.size * config_.features.scale;
    return side * side * config_.unet.inChannels;
  }
  int64_t batchFloats() const { return config_.batch * imageFloats(); }

  void writeCheckpoint(const std::string& path, const nlohmann::json& metadata);
  nlohmann::json readCheckpoint(const std::string& path);

  void setWeights(const float* block);
  std::vector<std::string> initialize(const std::string& path, bool keepHead);

  /// The weights on the host, as they are now.
  const float* weights() {
    parameters_.downloadValues();
    return parameters_.values.data();
  }
  const float* averagedWeights() { return averaged_.of(plan_->parameters(), ema_); }

  const std::shared_ptr<Device> device_;
  const TrainerConfig config_;
  const Schedule schedule_;
  const UNet net_;
  const std::unique_ptr<FeatureSource> features_;  // null without a feature head
  const MemoryCheck fits_;                         // before anything large is allocated
  ParameterBlock parameters_;
  DeviceBuffer ema_, m_, v_;
  std::unique_ptr<Plan> plan_;
  std::unique_ptr<FeatureExtractor> extractor_;
  std::unique_ptr<FeatureCache> cache_;  // null where samples do not come again
  DeviceBuffer target_;                  // f(x_0) of the batch
  DeviceBuffer reduced_;                 // what the UNet sees of the batch, where the backbone sees more
  int64_t steps_ = 0;

 private:
  void startAverage() { plan_->parameters().toDevice(parameters_.values.data(), ema_.data()); }
  void compileFeatures();

  /// Cells of an image's features, and floats.
  int64_t positions() const { return (config_.size / 4) * (config_.size / 4); }
  int64_t featureFloats() const { return positions() * features_->channels(); }

  /// target_ from the pixels of the batch, on the host and on the device.
  void extract(const float* pixels, const float* onDevice, const Cancel& cancel);
  /// One step with timesteps_ and noise_ filled in. Until the optimiser starts nothing that lasts is touched.
  StepResult run(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel);
  /// Batch means of what the losses came to.
  StepResult lossOf() const;
  void checkLoss(const StepResult& result) const {
    if (!std::isfinite(result.loss)) fail("loss", result.loss);
  }
  [[noreturn]] void fail(const char* what, double value) const;
  int32_t checkedLabel(const int32_t* labels, size_t i) const;

  std::vector<int32_t> timesteps_;
  std::vector<StepCoefficients> coefficients_;
  std::vector<NoiseSource> noise_;
  UploadBuffer seen_;
  Mirrored<float> t_, y_;  // what the network is told, a sample each
  Mirrored<SampleLoss> losses_;
  Mirrored<double> featureLosses_, squaredNorm_;
  HostBlock averaged_;
  std::unique_ptr<ChannelStatistics> statistics_;  // between observe and the first step
};

}  // namespace ddad
