#pragma once
// How far an image is from good ones: the Mahalanobis distance of its backbone features from their Gaussian, and the
// gradient of its mean by the image (Algorithm 1). Compiled for one number of images and one size; nothing is allocated
// after construction.
#include <memory>
#include <vector>

#include "backbone/features.h"
#include "backbone/gaussian.h"

namespace ddad {

/// Whether what a Gaussian is over fits features of an image of this size: throws ERR_IMAGE where its grid is another.
void checkGrid(const GaussianShape& shape, int64_t height, int64_t width);

class FeatureDistance {
 public:
  /// The images are those that the UNet sees, so the grid has their stride 4 whatever source.scale is. `gradients`:
  /// whether gradient() will be called. Throws ERR_CONFIG, ERR_MEMORY.
  FeatureDistance(const Device& device, FeatureSource& source, std::vector<int32_t> dims, int64_t images,
                  int64_t height, int64_t width, bool gradients, PlanMemory* memory = nullptr);

  /// The features of images [n, height, width, channels] in [-1, 1] (one channel is repeated to three), in the device's
  /// memory.
  void extract(const float* images, int64_t channels, const Cancel& cancel);
  /// Of the last extract: f(x) at the chosen channels, [n, positions, d], on the host.
  const float* features();

  /// The same, and the distances from the Gaussian.
  void run(const FeatureGaussian& gaussian, const float* images, int64_t channels, const Cancel& cancel);
  /// Of image i after run, [grid height, grid width], on the host.
  const float* distances(int64_t i);
  /// Of image i after run: the mean over its pixels of the distances, resized bilinearly.
  double loss(int64_t i);
  /// After run: the gradient of each image's loss by its pixels, to [n, height, width, channels] on the device.
  void gradient(int64_t channels, float* to, const Cancel& cancel);

  int64_t gridHeight() const { return height_ / 4; }
  int64_t gridWidth() const { return width_ / 4; }
  int64_t positions() const { return gridHeight() * gridWidth(); }
  int64_t bytes() const;

 private:
  const Device& device_;
  FeatureSource& source_;
  const int64_t images_, height_, width_, dims_;
  const bool gradients_;
  std::vector<TapSelection> selections_;  // of source_.taps, one each
  Mirrored<float> features_, distances_, weights_;
  DeviceBuffer featureGradient_;
  Plan plan_;
};

}  // namespace ddad
