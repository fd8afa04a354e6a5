#pragma once
// The Gaussian of backbone features over good images (PaDiM, Defard et al. 2021), one for each position of the feature
// grid or one for all of them, and the Mahalanobis distance from it.
#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "device/device_buffer.h"

namespace ddad {

/// Added to the diagonal of each covariance.
constexpr double kCovarianceFloor = 0.01;

/// What is added to the diagonal of a covariance, so that it has an inverse after few images.
enum class CovarianceFloor {
  kAbsolute,  // kCovarianceFloor, as PaDiM was published
  kRelative,  // kCovarianceFloor of the channels' variance over all places: the same for features of any unit
};

/// What a Gaussian is over: some of the concatenated channels of f(x_0), on a grid of positions.
struct GaussianShape {
  std::vector<int32_t> dims;              // channels of f(x_0), ascending
  int64_t gridHeight = 0, gridWidth = 0;  // 0: one Gaussian for all positions, of a grid of any size

  int64_t size() const { return static_cast<int64_t>(dims.size()); }
  bool pooled() const { return gridHeight == 0; }
  /// Gaussians that there are.
  int64_t groups() const { return pooled() ? 1 : gridHeight * gridWidth; }
  bool operator==(const GaussianShape&) const = default;
};

/// `count` of the channels [0, channels), ascending, chosen by `seed`. Throws ERR_ARGUMENT where there are fewer.
std::vector<int32_t> chooseChannels(uint64_t seed, int64_t channels, int64_t count);

struct FeatureGaussian {
  /// The arrays below in a device's memory.
  struct OnDevice {
    const float *mean, *precision;
  };
  /// Copies them there when first asked, where the device has a memory of its own. One device, one thread at a time.
  OnDevice on(const Device& device) const;

  GaussianShape shape;
  AlignedBuffer mean;       // [groups, d]
  AlignedBuffer precision;  // [groups, d, d]: the inverse of the covariance, symmetric

  explicit FeatureGaussian(GaussianShape of);
  int64_t bytes() const { return mean.bytes() + precision.bytes(); }

 private:
  mutable std::shared_ptr<const Device> device_;
  mutable DeviceBuffer deviceMean_, devicePrecision_;
};

/// Replaces a symmetric positive definite matrix [d, d] by its inverse; `scratch` has d * d values. Throws ERR_NUMERIC
/// where it is none.
void invertSymmetric(double* matrix, int64_t d, double* scratch);

/// The Mahalanobis distance (its square root) of features [n, positions, d], minus and over nothing but what the
/// Gaussian says, to distances [n, positions]. Where `gradient` is not null, it becomes the gradient by the features of
/// sum(weights[position] * distance), [n, positions, d]; 0 where a distance is 0. Arrays are the device's.
void mahalanobis(const Device& device, const FeatureGaussian& gaussian, const float* features, int64_t n,
                 int64_t positions, float* distances, const float* weights, float* gradient);

/// Mean and covariance gathered in one pass: Welford's update at each position, or for a pooled Gaussian the moments of
/// an image about its own mean, merged as Chan et al. do; float64, so nothing cancels however long the pass is.
class GaussianFit {
 public:
  /// Throws ERR_MEMORY where the state and the result cannot be had.
  explicit GaussianFit(GaussianShape shape);

  /// Adds the features of an image, [positions, d]; where there is a Gaussian a position, all of them.
  void add(const Device& device, const float* features, int64_t positions);
  /// Images added, or for a pooled Gaussian positions.
  int64_t count() const { return count_; }
  /// The Gaussian of what was added, its covariance with n - 1 and `floor` on the diagonal. Throws
  /// ERR_NUMERIC after fewer than two additions.
  std::shared_ptr<FeatureGaussian> finish(const Device& device,
                                          CovarianceFloor floor = CovarianceFloor::kAbsolute) const;

  const GaussianShape& shape() const { return shape_; }
  /// Bytes of the state: groups * (d + d (d + 1) / 2) * 8.
  static int64_t stateBytes(const GaussianShape& shape);

 private:
  void addPosition(const float* features, int64_t group, double count);
  void addPooled(const Device& device, const float* features, int64_t positions);
  std::vector<double> channelVariances(double divisor) const;

  GaussianShape shape_;
  int64_t count_ = 0;
  std::vector<double> mean_;     // [groups, d]
  std::vector<double> moments_;  // [groups], the lower triangle of the sum of outer products
};

}  // namespace ddad
