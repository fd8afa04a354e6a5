#pragma once
#include <memory>
#include <vector>

#include "noise/noising.h"
#include "ops/plan.h"
#include "score/score_config.h"
#include "unet/unet.h"

namespace ddad {

/// The batched scoring pass, compiled for one number of images and one size: every noise scale of every image goes
/// through the network in one batch, then one pass over its output computes the KL, normalises it and sums the scales.
class ScorePass {
 public:
  ScorePass(const Device& device, const UNet& net, const ScoreConfig& config, ParameterBlock& parameters,
            int64_t images, int64_t height, int64_t width, PlanMemory* memory = nullptr);

  /// Where the caller puts image i: [height, width, channels] in [-1, 1].
  float* image(int64_t i) { return pixels_.data() + i * height_ * width_ * channels_; }
  void setLabel(int64_t i, int label) { labels_[static_cast<size_t>(i)] = label; }
  /// Brings changed weights into the kernels' layouts.
  void prepare() { plan_.prepare(); }
  /// `samples[i]` is the place of image i in the random stream: the same image and sample give the same map.
  void run(const uint32_t* samples, const Cancel& cancel);
  /// After run: the normalised sum over the scales [height, width]; raw sum where nothing normalises yet.
  const float* map(int64_t i) const { return maps_.data() + i * height_ * width_; }
  /// After run: the channel-mean KL in nats [height, width] of scale s.
  const float* kl(int64_t i, int64_t s) const { return kl_.data() + (i * scales_ + s) * height_ * width_; }
  /// The noise-free statistics over pixels and channels that per-image normalisation needs, of scale s.
  const KlStatistics& statistics(int64_t i, int64_t s) const {
    return statistics_[static_cast<size_t>(i * scales_ + s)];
  }

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t images() const { return images_; }
  Plan& plan() { return plan_; }
  /// Bytes beside the plan's.
  int64_t ownBytes() const { return pixels_.bytes() + kl_.bytes() + maps_.bytes(); }

 private:
  const Device& device_;
  const UNet& net_;
  const ScoreConfig& config_;
  int64_t images_, height_, width_, channels_, scales_;
  AlignedBuffer pixels_, kl_, maps_;
  std::vector<StepCoefficients> coefficients_;
  std::vector<NoiseSource> noise_;
  std::vector<EnsembleTerm> terms_;
  std::vector<KlStatistics> statistics_;
  std::vector<int> labels_;
  Plan plan_;
};

}  // namespace ddad
