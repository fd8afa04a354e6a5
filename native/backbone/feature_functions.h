#pragma once
// What a device with kernels of its own offers of the backbone's features; every pointer is the device's.
#include <cstdint>

#include "device/device.h"

namespace ddad {

/// A tap of the backbone, [images, inHeight, inWidth, inChannels], resized bilinearly (corners not aligned) to channels
/// of [images, height, width, outChannels]: channel source[k] of the tap becomes channel place[k], minus mean[k], times
/// inverseStd[k].
struct TapResize {
  int64_t images, inHeight, inWidth, inChannels;
  int64_t height, width, outChannels;
  int64_t count = 0;                                   // channels that are taken
  const int32_t *source = nullptr, *place = nullptr;   // [count], ascending
  const float *mean = nullptr, *inverseStd = nullptr;  // [count]
};

struct FeatureFunctions {
  /// See reduceImages and repeatChannels in backbone/features.h.
  void (*reduceImages)(const Device&, const float* from, int64_t n, int64_t height, int64_t width, int64_t channels,
                       int64_t scale, float* to);
  void (*repeatChannels)(const Device&, const float* pixels, int64_t count, int64_t channels, float* to);
  /// The transpose of repeatChannels: [count, 3] to [count, channels], sums of three where channels is 1.
  void (*sumChannels)(const Device&, const float* three, int64_t count, int64_t channels, float* to);
  void (*resizeTap)(const Device&, const TapResize&, const float* tap, float* features);
  /// The transpose: adds to `tapGradient`. The same numbers in every run.
  void (*resizeTapBack)(const Device&, const TapResize&, const float* featureGradient, float* tapGradient);
  /// See featureLoss and featureError; losses [samples].
  void (*featureLoss)(const Device&, const float* predicted, const float* target, int64_t samples, int64_t elements,
                      double weight, double* losses, float* gradient);
  void (*featureError)(const Device&, const float* predicted, const float* target, int64_t positions, int64_t channels,
                       float* errors);
  /// See mahalanobis in backbone/gaussian.h; mean [groups, d], precision [groups, d, d], one group for all positions
  /// where `pooled`; weights [positions]; gradient may be null.
  void (*mahalanobis)(const Device&, const float* mean, const float* precision, bool pooled, int64_t d,
                      const float* features, int64_t n, int64_t positions, float* distances, const float* weights,
                      float* gradient);
};

}  // namespace ddad
