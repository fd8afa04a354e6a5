#pragma once
// Gradient denoising reconstruction, the paper's Algorithm 1: rounds of steps down the gradient of the distance from
// good features, each round followed by one denoising step that brings the image back among those the model knows.
#include <memory>

#include "backbone/feature_distance.h"
#include "reverse/reverse_chain.h"

namespace ddad {

struct GradientSettings {
  int gradientSteps = 5;   // a round
  double stepSize = 0.02;  // s
  int denoiseStep = 8;     // of the schedule
};

class GradientRounds {
 public:
  /// Everything must outlive it. `chain` holds the images; its size is that of `distance`.
  GradientRounds(const Device& device, ReverseChain& chain, FeatureDistance& distance,
                 std::shared_ptr<const FeatureGaussian> gaussian, GradientSettings settings, int64_t images,
                 int64_t elements, int64_t channels);

  /// x <- sqrt(1 - s^2) x - s g / std(g), g the gradient of the distance. Allocates nothing, nor do the others.
  void gradientStep(const Cancel& cancel);
  /// x <- mu_theta(x).
  void denoise(const Cancel& cancel) { chain_.denoise(settings_.denoiseStep, cancel); }
  void round(const Cancel& cancel);

  /// After gradientStep, of image i as it was before: [elements], on the device.
  const float* gradient(int64_t i) const { return gradient_.data() + i * elements_; }

 private:
  const Device& device_;
  ReverseChain& chain_;
  FeatureDistance& distance_;
  const std::shared_ptr<const FeatureGaussian> gaussian_;
  const GradientSettings settings_;
  const int64_t images_, elements_, channels_;
  DeviceBuffer gradient_;
};

}  // namespace ddad
