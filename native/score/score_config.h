#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json_fwd.hpp"
#include "noise/schedule.h"
#include "unet/config.h"

namespace ddad {

/// How shat is normalised (formulas: Ensemble).
enum class Normalization { kNone, kCalibration, kPerImage };

/// The scoring part of a model's configuration, read and checked once.
struct ScoreConfig {
  UNetConfig unet;
  Schedule schedule;       // the chain whose beta enter the posterior and the KL
  std::vector<int> steps;  // the noise scales, as indices into that chain
  Normalization normalization = Normalization::kNone;
  std::vector<double> mean, std;  // a scale each, where normalization is kCalibration
  double smoothing = 0;   // standard deviation of a Gaussian over the map, in pixels of the network's resolution
  int64_t topCount = 64;  // largest pixels averaged into the image score; 0: topShare of them
  double topShare = 0;
  uint64_t seed = 0;
  int64_t tile = 512, overlap = 64;  // images larger than a tile are scored in tiles

  /// Throws ERR_CONFIG naming the field, what was expected and what came.
  static ScoreConfig fromJson(const nlohmann::json& config);
};

}  // namespace ddad
