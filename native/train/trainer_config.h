#pragma once
#include <string>

#include "backbone/features.h"
#include "nlohmann/json_fwd.hpp"
#include "train/optimizer.h"
#include "unet/config.h"

namespace ddad {

/// What training needs of a model's configuration, read and checked once.
struct TrainerConfig {
  UNetConfig unet;
  std::string schedule;
  int diffusionSteps = 1000;
  std::string respacing;  // of the training chain; empty: all steps
  bool rescaledLoss = true;
  int64_t size = 0;  // height and width of the crops
  int64_t batch = 0;
  uint64_t seed = 0;
  FeatureConfig features;
  bool samplesRepeat = false;  // whole images, not turned: the same pixels come in every pass over them
  double focusShare = 0;       // of the samples have a time step below focusBelow, the others any
  int focusBelow = 0;
  OptimizerSettings optimizer;

  /// Throws ERR_CONFIG naming the field, what was expected and what came.
  static TrainerConfig fromJson(const nlohmann::json& config);
};

}  // namespace ddad
