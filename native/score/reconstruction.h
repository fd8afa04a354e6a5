#pragma once
// A reconstruction in progress, one step or round at a time, so that whoever computes can do other work in between.
#include <memory>
#include <optional>
#include <vector>

#include "reverse/gradient_rounds.h"
#include "score/feature_pass.h"

namespace ddad {

enum class ReconstructMethod { kDdpm, kDdim, kGradient };

/// What is asked for; see fromJson.
struct ReconstructOptions {
  ReconstructMethod method = ReconstructMethod::kGradient;
  ReverseSettings reverse;  // method ddpm or ddim
  GradientSettings gradient;
  int rounds = 100;

  /// {"method": "ddpm" | "ddim" | "gradient", "respacing": null or a text, "step": the chain's first step (ddpm, ddim;
  /// null: its last) or the step that denoises (gradient), "eta", "rounds", "gradientSteps", "stepSize", "seed"}, over
  /// the chain of the model. Throws ERR_CONFIG.
  static ReconstructOptions fromJson(const nlohmann::json& json, const ScoreModel& model);
};

/// Images that are made of nothing but noise.
struct SampleRequest {
  int64_t count = 1, height = 0, width = 0;
  uint32_t first = 0;  // place of the first in the random stream
  int label = -1;
};

class Reconstruction {
 public:
  /// The images must all have one size and may go after this. The model must outlive it. `memory`: that the network may
  /// share. Throws ERR_IMAGE where the images do not fit, ERR_CONFIG where a Gaussian is lacking, ERR_MEMORY.
  Reconstruction(std::shared_ptr<const Device> device, ScoreModel& model, ReconstructOptions options,
                 const std::vector<ScoreRequest>& images, PlanMemory memory);
  Reconstruction(std::shared_ptr<const Device> device, ScoreModel& model, ReconstructOptions options,
                 const SampleRequest& request, PlanMemory memory);

  /// Steps (of a round each, method gradient) in all, and done.
  int steps() const;
  int done() const { return done_; }
  /// The next step. Allocates nothing. Throws ERR_ABORTED, ERR_NUMERIC.
  void advance(const Cancel& cancel);

  int64_t images() const { return images_; }
  int64_t height() const { return height_.cells; }
  int64_t width() const { return width_.cells; }
  int64_t channels() const { return channels_; }
  int64_t elements() const { return height() * width() * channels(); }
  /// Image i as it is now, [height, width, channels] within [0, 1].
  void copyImage(int64_t i, float* to) const;
  /// Method gradient, after a step: the distance of image i from good ones before the last gradient step.
  double distance(int64_t i) const { return distance_ ? distance_->loss(i) : 0.0; }
  bool hasDistance() const { return distance_ != nullptr; }
  int64_t bytes() const { return chain_->bytes() + (distance_ ? distance_->bytes() : 0); }

 private:
  void compile(const std::vector<int>& labels);

  const std::shared_ptr<const Device> device_;
  ScoreModel& model_;
  const ReconstructOptions options_;
  const int64_t images_, channels_;
  PaddedSide height_{}, width_{};
  PlanMemory memory_;
  std::unique_ptr<ReverseChain> chain_;
  std::unique_ptr<FeatureDistance> distance_;
  std::unique_ptr<GradientRounds> rounds_;
  int done_ = 0;
};

}  // namespace ddad
