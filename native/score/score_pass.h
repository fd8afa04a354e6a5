#pragma once
#include <memory>
#include <vector>

#include "backbone/features.h"
#include "graph/plan.h"
#include "noise/noising.h"
#include "score/image/resize.h"
#include "score/score_config.h"
#include "unet/unet.h"

namespace ddad {

/// Memory that passes of one model share: one runs at a time.
struct ScoreMemory {
  PlanMemory unet, backbone;
};

/// The batched scoring pass, compiled for one number of images and one size: every noise scale of every image goes
/// through the network in one batch, then one pass over its output computes the KL, normalises it and sums the scales.
/// The backbone sees each image once.
class ScorePass {
 public:
  /// `features` is null where the model has none; height and width are those that the UNet sees.
  ScorePass(const Device& device, const UNet& net, const ScoreConfig& config, ParameterBlock& parameters,
            FeatureSource* features, int64_t images, int64_t height, int64_t width, ScoreMemory* memory = nullptr);

  /// Size of the image, `features.scale` times what the UNet sees.
  int64_t imageHeight() const { return height_ * scale_; }
  int64_t imageWidth() const { return width_ * scale_; }
  /// Where the caller puts image i: [image height, image width, channels] in [-1, 1].
  float* image(int64_t i) { return pixels_.host() + i * imageHeight() * imageWidth() * channels_; }
  void setLabel(int64_t i, int label) { labels_[static_cast<size_t>(i)] = label; }
  /// Scores with another configuration from now on, which differs in the calibration alone and must outlive the pass.
  void use(const ScoreConfig& config);
  /// Brings changed weights into the kernels' layouts.
  void prepare() { plan_.prepare(); }
  /// `samples[i]` is the place of image i in the random stream: the same image and sample give the same map. Where
  /// `noise` is not null it is used instead: [images, scales, height, width, channels], on the device.
  void run(const uint32_t* samples, const Cancel& cancel, const float* noise = nullptr);
  /// The backbone alone, for a model with features: only what its extractor gives is there afterwards.
  void runBackbone(const Cancel& cancel);

  /// x_0 of image i after run: what the UNet sees of it, [height, width, channels], on the device.
  const float* xStart(int64_t i) const {
    return (scale_ > 1 ? reduced_.data() : pixels_.device()) + i * height_ * width_ * channels_;
  }
  /// After run: the pixel-level score (or where the configuration says so the error of the reconstruction), normalised
  /// and averaged over the scales, [image height, image width].
  const float* map(int64_t i) const {
    return (scale_ > 1 ? maps_.data() : coarse_.host()) + i * imageHeight() * imageWidth();
  }
  /// After run: the channel-mean KL in nats [height, width] of scale s.
  const float* kl(int64_t i, int64_t s) const { return kl_.host() + (i * scales_ + s) * height_ * width_; }
  /// After run, where nothing is normalised: (x_0 - xhat0)^2, mean over channels, like kl.
  const float* rgb(int64_t i, int64_t s) const { return rgb_.host() + (i * scales_ + s) * height_ * width_; }
  /// After run, where per-image normalisation needs it: statistics over pixels and channels of scale s.
  const PixelStatistics& statistics(int64_t i, int64_t s) const { return statistics_.host()[i * scales_ + s]; }

  /// After run: the network's output [height, width, 2C] for image i at scale s, on the device.
  const float* output(int64_t i, int64_t s) const {
    return plan_.value(net_.out) + (i * scales_ + s) * height_ * width_ * 2 * channels_;
  }

  bool hasFeatures() const { return extractor_ != nullptr; }
  /// What computed the features, whose taps hold those of the images after run.
  FeatureExtractor& extractor() { return *extractor_; }
  int64_t gridHeight() const { return height_ / 4; }
  int64_t gridWidth() const { return width_ / 4; }
  /// After run: the feature-level score, normalised and averaged over the scales, [image height, image width].
  const float* featureMap(int64_t i) const { return featureMaps_.data() + i * imageHeight() * imageWidth(); }
  /// After run: s^f_t of scale s on the stride-4 grid.
  const float* featureErrors(int64_t i, int64_t s) const {
    return errors_.host() + (i * scales_ + s) * gridHeight() * gridWidth();
  }
  /// After run: f(x_0) of image i, [grid height, grid width, C], and the prediction of it at all noise scales, [scales,
  /// grid height, grid width, C]; on the host, each valid until its next call.
  const float* features(int64_t i);
  const float* predictedFeatures(int64_t i);

  /// After run, where the model has features: the residual of image i as a ResidualMemory takes it, on the stride-4
  /// grid [grid height, grid width, C]. Valid until the next call.
  const float* pooledResiduals(int64_t i);

  int64_t scale() const { return scale_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t images() const { return images_; }
  Plan& plan() { return plan_; }
  /// Bytes beside the plans'.
  int64_t ownBytes() const {
    return pixels_.bytes() + reduced_.bytes() + kl_.bytes() + rgb_.bytes() + coarse_.bytes() + maps_.bytes() +
           target_.bytes() + errors_.bytes() + grid_.bytes() + featureMaps_.bytes() + residuals_.bytes();
  }

 private:
  void enqueuePixelScores(const float* noise, const uint32_t* samples);
  void enqueueFeatureErrors(const Cancel& cancel);
  const NoiseSource* sources(int64_t i, const uint32_t* samples, const float* noise);
  void scoreFeatures(int64_t i);
  void normalisePerImage(int64_t i, float* map) const;

  const Device& device_;
  const UNet& net_;
  const ScoreConfig* config_;
  const FeatureSource* features_;
  int64_t scale_, images_, height_, width_, channels_, scales_;
  Mirrored<float> pixels_, t_, y_;  // t and y: what the network is told, a scale of an image each
  DeviceBuffer reduced_;
  Mirrored<float> kl_, rgb_, coarse_;  // coarse_: the map as large as what the UNet sees
  Mirrored<PixelStatistics> statistics_;
  Mirrored<float> errors_;
  DeviceBuffer target_;
  AlignedBuffer maps_, grid_, featureMaps_, residuals_;
  DownloadBuffer targetHost_, predictedHost_;
  BilinearResize enlarge_, spread_;  // coarse_ and grid_ to the size of the image
  std::vector<StepCoefficients> coefficients_;
  std::vector<NoiseSource> noise_;
  std::vector<EnsembleTerm> terms_, featureTerms_;
  std::vector<int> labels_;
  Plan plan_;
  std::unique_ptr<FeatureExtractor> extractor_;
};

/// Equation (11): `pixel` becomes alpha shat + (1 - alpha) shat^f, or with per-image normalisation the sum of the two.
void combineMaps(const ScoreConfig& config, std::vector<float>& pixel, const std::vector<float>& feature);

}  // namespace ddad
