#pragma once
#include <string>

#include "backbone/features.h"
#include "device/device.h"
#include "train/trainer_config.h"
#include "unet/unet.h"

namespace ddad {

/// Bytes of a device's memory that training takes.
struct TrainingMemory {
  int64_t parameters = 0;     // weights, their bf16 copies, gradients; the backbone's weights
  int64_t optimizer = 0;      // both moments and the moving average
  int64_t activations = 0;    // of the UNet and the backbone, images, features
  int64_t packedWeights = 0;  // copies in the kernels' layouts
  int64_t total() const { return parameters + optimizer + activations + packedWeights; }
};

/// Of a batch of this size. `features` is null where there are none.
TrainingMemory trainingMemory(const Device& device, const TrainerConfig& config, const UNet& net,
                              const FeatureSource* features, int64_t batch);

/// The largest batch that `bytes` hold; 0 where not even one sample fits.
int64_t largestBatch(const Device& device, const TrainerConfig& config, const UNet& net, const FeatureSource* features,
                     int64_t bytes);

/// Throws ERR_MEMORY, naming the largest batch that fits, where the device has not enough for the configuration's.
void requireTrainingMemory(const Device& device, const TrainerConfig& config, const UNet& net,
                           const FeatureSource* features);

}  // namespace ddad
