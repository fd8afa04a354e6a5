#pragma once
// Fits the Gaussian of a model's features on good images, one after the other.
#include <memory>
#include <optional>

#include "score/feature_pass.h"

namespace ddad {

class GaussianFitter {
 public:
  /// `options`: {"channels": how many of the features' channels (all where there are fewer), "seed": which, "pooled":
  /// one Gaussian for all places}. Throws ERR_CONFIG.
  GaussianFitter(std::shared_ptr<const Device> device, ScoreModel& model, const nlohmann::json& options);

  /// Throws ERR_IMAGE where there is a Gaussian a place and the image has another size than the first; ERR_MEMORY.
  void add(const ScoreRequest& request, const Cancel& cancel);

  /// The Gaussian, and what the model's configuration says of it:
  /// {"channels": [...], "grid": [height, width] or null, "seed", "images"}.
  std::shared_ptr<const FeatureGaussian> finish() const;
  nlohmann::json describe() const;
  /// Bytes of the fit's state; 0 before the first image.
  int64_t stateBytes() const { return fit_ ? GaussianFit::stateBytes(fit_->shape()) : 0; }

 private:
  FeaturePass& passFor(const Tile& tile);

  const std::shared_ptr<const Device> device_;
  ScoreModel& model_;
  const bool pooled_;
  const uint64_t seed_;
  const std::vector<int32_t> dims_;
  std::optional<FeaturePass> pass_;
  std::optional<GaussianFit> fit_;
  int64_t images_ = 0;
};

}  // namespace ddad
