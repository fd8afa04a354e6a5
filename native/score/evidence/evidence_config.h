#pragma once
// What an image is judged by beside the ensemble (11): the backbone's features against those of good images.
#include <cstdint>
#include <string>
#include <vector>

#include "backbone/features.h"
#include "nlohmann/json_fwd.hpp"

namespace ddad {

/// `score.evidence` of a configuration, and what calibration found of it. Without banks there is none.
struct EvidenceConfig {
  std::vector<std::vector<int64_t>> banks;  // strides of the taps of each bank's features, neighbours, fine to coarse
  bool image = false;                       // whether statistics over the whole image are compared as well
  int64_t placeStride = 0;                  // of the tap that has a Gaussian for each place; 0: none
  std::vector<double> mapMean, mapStd;      // of each map's distances on good images; empty before they are known
  double share = 0.4;                       // of the map, the ensemble has the rest
  std::vector<double> mean, std;            // of each value of `names` on good images, likewise

  /// Maps of distances: to each bank, and where places have Gaussians to those.
  size_t maps() const { return banks.size() + (placeStride > 0 ? 1 : 0); }
  explicit operator bool() const { return !banks.empty(); }
  /// Banks whose largest distance takes part in the score. Where whole images are compared, those without a tap at
  /// stride 16 or 32 draw the map alone: fine features of a resized part differ on good images, too. In tiles of native
  /// resolution they are what shows a small defect (bench/accuracy).
  std::vector<size_t> judges() const;
  /// What the score is made of: "ensemble", "local" for each bank that judges ("localFine" without a tap at
  /// stride 16, "localDeep" with one at stride 32), "regional", "global" where whole images are compared, and
  /// "place" where places have Gaussians.
  std::vector<std::string> names() const;

  /// Throws ERR_CONFIG naming the field, what was expected and what came.
  static EvidenceConfig fromJson(const nlohmann::json& config, const FeatureConfig& features);
};

/// The score of an image: 2 log of the weighted mean of exp(z / 2) over the values' z = (value - mean) / std, between
/// their mean and the largest, with weight 5 of "place" and 1 of the others: a small defect shows in one, a large one
/// in several (bench/accuracy). NaN where a value is.
double combineEvidence(const EvidenceConfig& config, const std::vector<double>& values);

}  // namespace ddad
