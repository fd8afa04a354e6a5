#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backbone/features.h"
#include "nlohmann/json_fwd.hpp"
#include "noise/schedule.h"
#include "score/evidence/evidence_config.h"
#include "unet/config.h"

namespace ddad {

/// How shat is normalised (formulas: Ensemble).
enum class Normalization { kNone, kCalibration, kPerImage };

/// What an image is judged by: the ensemble (11), one of its two scores alone, the error of the reconstruction, or the
/// Mahalanobis distance of its features from those of good images (PaDiM).
enum class ScoreKind { kEnsemble, kPixel, kFeature, kRgb, kPadim };

/// Which of the two scores the map of an image shows alone, if it does.
enum class MapSource { kBoth, kPixel, kFeature };

/// Mean and standard deviation of a score at each place of a good image, on a coarse grid over the whole of it.
struct PositionGrid {
  std::vector<float> mean, std;
};

/// The scoring part of a model's configuration, read and checked once.
struct ScoreConfig {
  UNetConfig unet;
  Schedule schedule;       // the chain whose beta enter the posterior and the KL
  std::vector<int> steps;  // the noise scales, as indices into that chain
  ScoreKind kind = ScoreKind::kEnsemble;
  Normalization normalization = Normalization::kNone;
  std::vector<double> mean, std;                // of the KL, a scale each, where normalization is kCalibration
  std::vector<double> rgbMean, rgbStd;          // of the reconstruction error, where kind is kRgb
  FeatureConfig features;                       // without strides: no feature-level score
  std::vector<double> featureMean, featureStd;  // of the feature error, like mean and std
  bool remembers = false;                       // whether the model has residuals of good images
  double memoryWeight = 0;                      // of the distance to known residuals in shat^f; 0: no memory
  double memoryMean = 0, memoryStd = 1;         // of that distance on good images
  int64_t gridWidth = 0, gridHeight = 0;        // of the two below; 0 where places are not told apart
  PositionGrid pixelGrid, featureGrid;          // of shat and shat^f, averaged over the scales
  EvidenceConfig evidence;                      // what an image is judged by beside the ensemble
  double alpha = 1;                             // weight of the pixel-level score; the feature-level score has the rest
  double smoothing = 0;   // standard deviation of a Gaussian over the map, in pixels of the network's resolution
  int64_t topCount = 64;  // largest pixels averaged into the image score; 0: topShare of them
  double topShare = 0;
  uint64_t seed = 0;
  int64_t tile = 256, overlap = 32;  // larger images are scored in tiles: attention costs the square

  MapSource source() const;

  /// Throws ERR_CONFIG naming the field, what was expected and what came.
  static ScoreConfig fromJson(const nlohmann::json& config);
};

}  // namespace ddad
