#pragma once
// f(x_0) of the feature-level score (10): backbone taps on the stride-4 grid, and the distance from a prediction.
#include <cstdint>
#include <string>
#include <vector>

#include "backbone/efficientnet.h"
#include "backbone/tap_resize.h"
#include "device/device.h"
#include "graph/plan.h"
#include "nlohmann/json_fwd.hpp"

namespace ddad {

/// The pretrained features of one model: the backbone up to its coarsest tap, which taps are taken, and the mean and
/// standard deviation of each channel over good images.
struct FeatureSource {
  Backbone backbone;
  ParameterBlock block;             // the backbone's parameters
  std::vector<Backbone::Tap> taps;  // those that are concatenated, fine to coarse
  std::vector<float> mean, std;     // a channel each
  int64_t scale = 1;                // the backbone sees the image this many times finer than the UNet does

  int64_t channels() const { return static_cast<int64_t>(mean.size()); }
  /// Heights and widths of the image that the backbone sees must be multiples of it.
  int64_t unit() const { return int64_t{1} << backbone.taps.back().level; }
  /// Stride of the grid in that image; it is 4 in what the UNet sees.
  int64_t gridStride() const { return 4 * scale; }
};

/// `features` of a model's configuration.
struct FeatureConfig {
  std::vector<int64_t> strides;  // of the backbone's taps; empty where the model has no features
  int64_t scale = 1;
  double weight = 1;  // of L_f in the loss
  int64_t depth = 0;  // stride of the deepest tap that is kept of the backbone; 0: that of `strides`

  explicit operator bool() const { return !strides.empty(); }
  /// Throws ERR_CONFIG naming the field, what was expected and what came.
  static FeatureConfig fromJson(const nlohmann::json& config);
};

/// Reads backbone weights stored after `prefix` and takes the taps at the strides that `config` names; mean 0 and
/// standard deviation 1.
FeatureSource openFeatures(const TensorSource& file, const std::string& prefix, const FeatureConfig& config);

/// A copy with memory of its own.
FeatureSource copyFeatures(const FeatureSource& source);

/// Means over squares of `scale` pixels: from [n, height * scale, width * scale, channels] to [n, height, width,
/// channels], what the UNet sees of an image whose features are taken at `scale`.
void reduceImages(const Device& device, const float* from, int64_t n, int64_t height, int64_t width, int64_t channels,
                  int64_t scale, float* to);
/// The same in the host's memory.
void reduceImages(const float* from, int64_t n, int64_t height, int64_t width, int64_t channels, int64_t scale,
                  float* to);

/// Pixels of one channel become those of three; three stay.
void repeatChannels(const Device& device, const float* pixels, int64_t count, int64_t channels, float* to);

/// The transpose: from [count, 3] to [count, channels], sums of three where there is one channel.
void sumChannels(const Device& device, const float* three, int64_t count, int64_t channels, float* to);

/// Computes f(x_0) for one batch size and image size (of the image that the backbone sees), in the device's memory.
/// Nothing is allocated after construction.
class FeatureExtractor {
 public:
  FeatureExtractor(const Device& device, FeatureSource& source, int64_t images, int64_t height, int64_t width,
                   PlanMemory* memory = nullptr);

  /// images [n, height, width, channels] in [-1, 1] (one channel is repeated to three) to out [n, height / g,
  /// width / g, C], g the source's gridStride: each tap resized bilinearly (corners not aligned), minus the mean, over
  /// the standard deviation.
  void run(const float* images, int64_t channels, float* out, const Cancel& cancel);
  Plan& plan() { return plan_; }
  const FeatureSource& source() const { return source_; }
  int64_t positions() const { return (height_ / source_.gridStride()) * (width_ / source_.gridStride()); }

 private:
  const Device& device_;
  const FeatureSource& source_;
  int64_t images_, height_, width_;
  std::vector<std::vector<int32_t>> channels_;  // of the features, those of a tap each
  std::vector<TapSelection> taps_;
  Plan plan_;
};

/// L_f (10) of each sample: the mean of (predicted - target)^2 over its `elements` values, and the gradient by
/// `predicted` of weight * sum(L_f) / samples. `losses` has `samples` entries. All in the device's memory.
void featureLoss(const Device& device, const float* predicted, const float* target, int64_t samples, int64_t elements,
                 double weight, double* losses, float* gradient);

/// s^f_t: the mean over channels of (predicted - target)^2 at each of `positions` positions; errors [positions].
void featureError(const Device& device, const float* predicted, const float* target, int64_t positions,
                  int64_t channels, float* errors);

/// Mean and standard deviation of channels, gathered over batches.
class ChannelStatistics {
 public:
  explicit ChannelStatistics(int64_t channels)
      : sum_(static_cast<size_t>(channels)), squares_(static_cast<size_t>(channels)) {}
  /// features [rows, channels].
  void add(const float* features, int64_t rows);
  int64_t rows() const { return rows_; }
  /// Writes both; a channel that never varies gets standard deviation 1.
  void finish(std::vector<float>& mean, std::vector<float>& std) const;

 private:
  std::vector<double> sum_, squares_;
  int64_t rows_ = 0;
};

}  // namespace ddad
