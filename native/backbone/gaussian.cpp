#include "backbone/gaussian.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <string>

#include "backbone/feature_functions.h"
#include "backbone/gaussian_kernels.h"
#include "base/error.h"
#include "base/memory_limit.h"
#include "base/philox.h"
#include "device/parallel.h"

namespace ddad {
namespace {

constexpr int64_t kMaxDims = 4096;  // far more than any backbone has; keeps sizes within 64 bits
constexpr int64_t kPositions = 16;  // that one thread takes at once
// Where nothing varies: far below what features of photographs do, and large enough for the inverse's floats.
constexpr double kLeastVariance = 1e-12, kLeastSpread = 1e-6;

int64_t triangle(int64_t d) { return d * (d + 1) / 2; }

/// [groups, d, d] as a size; refuses what cannot be.
int64_t checkedGroups(const GaussianShape& shape) {
  const int64_t d = shape.size();
  if (d < 1 || d > kMaxDims || shape.groups() < 1 || shape.groups() > (int64_t{1} << 24))
    throw Error("ERR_ARGUMENT", "a Gaussian: expected 1 to " + std::to_string(kMaxDims) + " channels, got " +
                                    std::to_string(d) + " at " + std::to_string(shape.groups()) + " positions");
  return shape.groups();
}

}  // namespace

std::vector<int32_t> chooseChannels(uint64_t seed, int64_t channels, int64_t count) {
  if (count < 1 || count > channels)
    throw Error("ERR_ARGUMENT", "channels of the Gaussian: expected 1 to " + std::to_string(channels) +
                                    ", those of the features, got " + std::to_string(count));
  std::vector<int32_t> all(static_cast<size_t>(channels));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    const auto left = static_cast<uint32_t>(channels - i);
    const int64_t pick = i + philoxBelow(seed, kStreamChannels, 0, static_cast<uint32_t>(i), left);
    std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(pick)]);
  }
  all.resize(static_cast<size_t>(count));
  std::sort(all.begin(), all.end());
  return all;
}

FeatureGaussian::FeatureGaussian(GaussianShape of)
    : shape(std::move(of)),
      mean(checkedGroups(shape) * shape.size()),
      precision(shape.groups() * shape.size() * shape.size()) {}

FeatureGaussian::OnDevice FeatureGaussian::on(const Device& device) const {
  if (device.sharesHostMemory()) return {mean.data(), precision.data()};
  if (device_.get() != &device) {
    deviceMean_ = DeviceBuffer(device, mean.size());
    devicePrecision_ = DeviceBuffer(device, precision.size());
    device.upload(deviceMean_.data(), mean.data(), mean.bytes());
    device.upload(devicePrecision_.data(), precision.data(), precision.bytes());
    device.synchronize();
    device_ = device.shared_from_this();
  }
  return {deviceMean_.data(), devicePrecision_.data()};
}

void invertSymmetric(double* matrix, int64_t d, double* scratch) {
  // Cholesky: matrix = L L^T, then the inverse of L, then (L^-1)^T L^-1
  for (int64_t i = 0; i < d; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = matrix[i * d + j];
      for (int64_t k = 0; k < j; ++k) sum -= scratch[i * d + k] * scratch[j * d + k];
      if (i != j) {
        scratch[i * d + j] = sum / scratch[j * d + j];
        continue;
      }
      if (!(sum > 0)) throw Error("ERR_NUMERIC", "a covariance is not positive definite");
      scratch[i * d + i] = std::sqrt(sum);
    }
  for (int64_t j = 0; j < d; ++j) {  // column j of L^-1, kept as row j of `matrix`
    double* column = matrix + j * d;
    std::fill_n(column, j, 0.0);
    column[j] = 1.0 / scratch[j * d + j];
    for (int64_t i = j + 1; i < d; ++i) {
      double sum = 0;
      for (int64_t k = j; k < i; ++k) sum -= scratch[i * d + k] * column[k];
      column[i] = sum / scratch[i * d + i];
    }
  }
  for (int64_t i = 0; i < d; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t k = i; k < d; ++k) sum += matrix[i * d + k] * matrix[j * d + k];
      scratch[i * d + j] = scratch[j * d + i] = sum;
    }
  std::copy_n(scratch, d * d, matrix);
}

void mahalanobis(const Device& device, const FeatureGaussian& gaussian, const float* features, int64_t n,
                 int64_t positions, float* distances, const float* weights, float* gradient) {
  const GaussianShape& shape = gaussian.shape;
  const int64_t d = shape.size(), total = n * positions;
  if (!shape.pooled() && positions != shape.groups())
    throw Error("ERR_INTERNAL", "the Gaussian is of another grid than the features");
  const FeatureGaussian::OnDevice arrays = gaussian.on(device);
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->mahalanobis(device, arrays.mean, arrays.precision, shape.pooled(), d, features, n, positions,
                                distances, weights, gradient);
  const auto kernel = DDAD_DISPATCH(squaredMahalanobis);
  parallelFor(device.threads(), (total + kPositions - 1) / kPositions, [&](int64_t part) {
    float difference[kMaxDims], product[kMaxDims];
    for (int64_t i = part * kPositions; i < std::min(total, (part + 1) * kPositions); ++i) {
      const int64_t position = i % positions, group = shape.pooled() ? 0 : position;
      const double squared =
          kernel(features + i * d, arrays.mean + group * d, arrays.precision + group * d * d, d, difference, product);
      // rounding may make a tiny one negative; NaN stays
      const double distance = squared < 0 ? 0.0 : std::sqrt(squared);
      distances[i] = static_cast<float>(distance);
      if (gradient == nullptr) continue;
      const auto scale = static_cast<float>(distance > 0 ? static_cast<double>(weights[position]) / distance : 0.0);
      for (int64_t k = 0; k < d; ++k) gradient[i * d + k] = product[k] * scale;
    }
  });
}

int64_t GaussianFit::stateBytes(const GaussianShape& shape) {
  return checkedGroups(shape) * (shape.size() + triangle(shape.size())) * 8;
}

GaussianFit::GaussianFit(GaussianShape shape) : shape_(std::move(shape)) {
  const int64_t d = shape_.size(), result = checkedGroups(shape_) * (d + d * d);
  requireMemory(stateBytes(shape_) / 4 + result);
  mean_.resize(static_cast<size_t>(shape_.groups() * d));
  moments_.resize(static_cast<size_t>(shape_.groups() * triangle(d)));
}

void GaussianFit::addPosition(const float* features, int64_t group, double count) {
  double before[kMaxDims], after[kMaxDims];
  const int64_t d = shape_.size();
  double* mean = mean_.data() + group * d;
  for (int64_t i = 0; i < d; ++i) {
    before[i] = static_cast<double>(features[i]) - mean[i];
    mean[i] += before[i] / count;
    after[i] = static_cast<double>(features[i]) - mean[i];
  }
  DDAD_DISPATCH(addOuterProduct)(before, after, 0, d, moments_.data() + group * triangle(d));
}

void GaussianFit::addPooled(const Device& device, const float* features, int64_t positions) {
  const int64_t d = shape_.size();
  const double before = static_cast<double>(count_), added = static_cast<double>(positions), all = before + added;
  std::vector<double> batchMean(static_cast<size_t>(d)), centred(static_cast<size_t>(positions * d));
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < d; ++i)
      batchMean[static_cast<size_t>(i)] += static_cast<double>(features[p * d + i]) / added;
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < d; ++i)
      centred[static_cast<size_t>(p * d + i)] =
          static_cast<double>(features[p * d + i]) - batchMean[static_cast<size_t>(i)];
  std::vector<double> shift(batchMean);
  for (int64_t i = 0; i < d; ++i) shift[static_cast<size_t>(i)] -= mean_[static_cast<size_t>(i)];
  std::vector<double> weighted(shift);
  for (double& w : weighted) w *= before * added / all;
  // rows of the triangle apart: every entry is summed in the order of the positions, whatever the threads
  constexpr int64_t kRows = 8;
  const auto add = DDAD_DISPATCH(addOuterProduct);
  parallelFor(device.threads(), (d + kRows - 1) / kRows, [&](int64_t part) {
    const int64_t first = part * kRows, last = std::min(d, first + kRows);
    for (int64_t p = 0; p < positions; ++p)
      add(centred.data() + p * d, centred.data() + p * d, first, last, moments_.data());
    add(weighted.data(), shift.data(), first, last, moments_.data());
  });
  for (int64_t i = 0; i < d; ++i) mean_[static_cast<size_t>(i)] += shift[static_cast<size_t>(i)] * added / all;
  count_ += positions;
}

void GaussianFit::add(const Device& device, const float* features, int64_t positions) {
  const CancelScope whole(nullptr);  // an image counts as a whole or not at all
  if (shape_.pooled()) return addPooled(device, features, positions);
  if (positions != shape_.groups())
    throw Error("ERR_ARGUMENT", "features: expected " + std::to_string(shape_.groups()) + " positions, got " +
                                    std::to_string(positions));
  count_ += 1;
  parallelFor(device.threads(), positions,
              [&](int64_t p) { addPosition(features + p * shape_.size(), p, static_cast<double>(count_)); });
}

/// Of each channel over all places and images: the mean variance within a place, and that of the places' means.
std::vector<double> GaussianFit::channelVariances(double divisor) const {
  const int64_t d = shape_.size(), groups = shape_.groups();
  std::vector<double> variances(static_cast<size_t>(d));
  for (int64_t c = 0; c < d; ++c) {
    double within = 0, sum = 0, squares = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const double mean = mean_[static_cast<size_t>(g * d + c)];
      within += moments_[static_cast<size_t>(g * triangle(d) + triangle(c) + c)] / divisor;
      sum += mean;
      squares += mean * mean;
    }
    const double n = static_cast<double>(groups), between = squares / n - (sum / n) * (sum / n);
    variances[static_cast<size_t>(c)] = std::max(within / n + std::max(between, 0.0), kLeastVariance);
  }
  return variances;
}

std::shared_ptr<FeatureGaussian> GaussianFit::finish(const Device& device, CovarianceFloor floor) const {
  if (count_ < 2) throw Error("ERR_NUMERIC", "a Gaussian needs at least 2 good images, got " + std::to_string(count_));
  auto gaussian = std::make_shared<FeatureGaussian>(shape_);
  const int64_t d = shape_.size();
  const double divisor = static_cast<double>(count_ - 1);
  std::transform(mean_.begin(), mean_.end(), gaussian->mean.data(), [](double m) { return static_cast<float>(m); });
  std::vector<double> scratch(static_cast<size_t>(device.threads() * 2 * d * d));
  std::atomic<bool> failed{false};
  const bool relative = floor == CovarianceFloor::kRelative;
  const std::vector<double> variances = relative ? channelVariances(divisor) : std::vector<double>();
  parallelForWorker(device.threads(), shape_.groups(), [&](int64_t group, int worker) {
    double* matrix = scratch.data() + worker * 2 * d * d;
    const double* moments = moments_.data() + group * triangle(d);
    double spread = 0;  // of this place, in units of the channels' variances
    for (int64_t i = 0; relative && i < d; ++i)
      spread += moments[triangle(i) + i] / divisor / variances[static_cast<size_t>(i)] / static_cast<double>(d);
    const auto added = [&](int64_t i) {
      return relative ? kCovarianceFloor * std::max(spread, kLeastSpread) * variances[static_cast<size_t>(i)]
                      : kCovarianceFloor;
    };
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j <= i; ++j)
        matrix[i * d + j] = matrix[j * d + i] = moments[triangle(i) + j] / divisor + (i == j ? added(i) : 0.0);
    try {
      invertSymmetric(matrix, d, matrix + d * d);
    } catch (const Error&) {
      failed = true;
    }
    float* to = gaussian->precision.data() + group * d * d;
    for (int64_t i = 0; i < d * d; ++i) to[i] = static_cast<float>(matrix[i]);
  });
  if (failed) throw Error("ERR_NUMERIC", "the features of the good images have no finite covariance");
  return gaussian;
}

}  // namespace ddad
