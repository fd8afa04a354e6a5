// What is learned of good images for FeatureEvidence: rows that cover their features, and a Gaussian of whole images.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/philox.h"
#include "device/parallel.h"
#include "score/evidence/feature_evidence.h"

namespace ddad {
namespace {

constexpr int64_t kProjected = 48;  // values that distances are measured in while rows are chosen
constexpr int64_t kPieces = 64;     // of the rows, whatever the number of threads

/// Rows [count, size] over their deviations, the columns [first, first + size) of rows of `stride` floats.
std::vector<float> normalisedColumns(const std::vector<float>& rows, int64_t stride, int64_t first, int64_t size,
                                     const std::vector<float>& mean, const std::vector<float>& std) {
  const int64_t count = static_cast<int64_t>(rows.size()) / stride;
  std::vector<float> out(static_cast<size_t>(count * size));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < size; ++c) {
      const auto at = static_cast<size_t>(first + c);
      out[static_cast<size_t>(i * size + c)] = (rows[static_cast<size_t>(i * stride) + at] - mean[at]) / std[at];
    }
  return out;
}

/// Mean and deviation of each column; where nothing varies the deviation is 1.
void columnStatistics(const float* rows, int64_t count, int64_t size, std::vector<float>& mean,
                      std::vector<float>& std) {
  ChannelStatistics statistics(size);
  statistics.add(rows, count);
  mean.assign(static_cast<size_t>(size), 0.0f);
  std.assign(static_cast<size_t>(size), 1.0f);
  statistics.finish(mean, std);
}

/// The lower Cholesky factor of a positive definite matrix, in place of its lower half.
void cholesky(std::vector<double>& a, int64_t n, const Cancel& cancel) {
  for (int64_t j = 0; j < n; ++j) {
    cancel.check();
    double* rowJ = a.data() + j * n;
    double diagonal = rowJ[j];
    for (int64_t k = 0; k < j; ++k) diagonal -= rowJ[k] * rowJ[k];
    if (!(diagonal > 0)) throw Error("ERR_NUMERIC", "the covariance of good images is not positive definite");
    const double root = std::sqrt(diagonal);
    rowJ[j] = root;
    for (int64_t i = j + 1; i < n; ++i) {
      double* rowI = a.data() + i * n;
      double sum = rowI[j];
      for (int64_t k = 0; k < j; ++k) sum -= rowI[k] * rowJ[k];
      rowI[j] = sum / root;
    }
  }
}

/// The inverse of a lower triangular matrix, row by row: row i of the inverse from those before it.
std::vector<double> invertLower(const std::vector<double>& l, int64_t n, const Cancel& cancel) {
  std::vector<double> inverse(static_cast<size_t>(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    cancel.check();
    double* row = inverse.data() + i * n;
    for (int64_t k = 0; k < i; ++k) {
      const double factor = l[static_cast<size_t>(i * n + k)];
      const double* before = inverse.data() + k * n;
      for (int64_t j = 0; j <= k; ++j) row[j] -= factor * before[j];
    }
    const double diagonal = l[static_cast<size_t>(i * n + i)];
    for (int64_t j = 0; j < i; ++j) row[j] /= diagonal;
    row[i] = 1.0 / diagonal;
  }
  return inverse;
}

}  // namespace

std::vector<int64_t> coverage(const Device& device, const float* rows, int64_t count, int64_t size, int64_t keep,
                              const Cancel& cancel) {
  std::vector<int64_t> chosen;
  if (count <= keep) {
    for (int64_t i = 0; i < count; ++i) chosen.push_back(i);
    return chosen;
  }
  std::vector<float> directions(static_cast<size_t>(size * kProjected));
  for (size_t i = 0; i < directions.size(); i += 4) {
    float normal[4];
    philoxNormal4(0, kStreamProjection, 0, 0, static_cast<uint32_t>(i / 4), normal);
    for (size_t j = 0; j < 4 && i + j < directions.size(); ++j) directions[i + j] = normal[j];
  }
  std::vector<float> projected(static_cast<size_t>(count * kProjected), 0.0f);
  parallelFor(device.threads(), count, [&](int64_t i) {
    float* to = projected.data() + i * kProjected;
    for (int64_t c = 0; c < size; ++c) {
      const float v = rows[i * size + c];
      const float* direction = directions.data() + c * kProjected;
      for (int64_t k = 0; k < kProjected; ++k) to[k] += v * direction[k];
    }
  });

  std::vector<float> nearest(static_cast<size_t>(count), std::numeric_limits<float>::infinity());
  struct Farthest {
    float distance;
    int64_t row;
  };
  std::vector<Farthest> farthest(static_cast<size_t>(kPieces));
  int64_t next = 0;
  while (static_cast<int64_t>(chosen.size()) < keep) {
    cancel.check();
    chosen.push_back(next);
    const float* centre = projected.data() + next * kProjected;
    parallelFor(device.threads(), kPieces, [&](int64_t piece) {
      const int64_t first = count * piece / kPieces, last = count * (piece + 1) / kPieces;
      Farthest best = {-1.0f, first};
      for (int64_t i = first; i < last; ++i) {
        const float* row = projected.data() + i * kProjected;
        float sum = 0;
        for (int64_t k = 0; k < kProjected; ++k) {
          const float d = row[k] - centre[k];
          sum += d * d;
        }
        float& distance = nearest[static_cast<size_t>(i)];
        distance = std::min(distance, sum);
        if (distance > best.distance) best = {distance, i};
      }
      farthest[static_cast<size_t>(piece)] = best;
    });
    Farthest best = farthest[0];
    for (const Farthest& one : farthest)
      if (one.distance > best.distance) best = one;
    if (!(best.distance > 0)) break;  // every row is one that was chosen
    next = best.row;
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

double WholeGaussian::distance(const std::vector<float>& values) const {
  const int64_t n = size();
  std::vector<double> z(static_cast<size_t>(n));
  for (size_t i = 0; i < z.size(); ++i)
    z[i] = (static_cast<double>(values[i]) - static_cast<double>(mean[i])) / static_cast<double>(std[i]);
  double squared = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float* row = whitening.data() + i * n;
    double sum = 0;
    for (int64_t j = 0; j <= i; ++j) sum += static_cast<double>(row[j]) * z[static_cast<size_t>(j)];
    squared += sum * sum;
  }
  return std::sqrt(squared);
}

WholeGaussian WholeGaussian::fit(const float* rows, int64_t count, int64_t size, const Cancel& cancel) {
  WholeGaussian gaussian;
  columnStatistics(rows, count, size, gaussian.mean, gaussian.std);
  std::vector<double> covariance(static_cast<size_t>(size * size), 0.0);
  std::vector<double> z(static_cast<size_t>(size));
  double fourth = 0;
  for (int64_t r = 0; r < count; ++r) {
    cancel.check();
    double norm = 0;
    for (int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<size_t>(i);
      z[at] = (static_cast<double>(rows[r * size + i]) - static_cast<double>(gaussian.mean[at])) /
              static_cast<double>(gaussian.std[at]);
      norm += z[at] * z[at];
    }
    fourth += norm * norm;
    for (int64_t i = 0; i < size; ++i) {
      double* row = covariance.data() + i * size;
      const double v = z[static_cast<size_t>(i)];
      for (int64_t j = 0; j <= i; ++j) row[j] += v * z[static_cast<size_t>(j)];
    }
  }
  const auto n = static_cast<double>(count), d = static_cast<double>(size);
  double trace = 0, squares = 0;
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double& value = covariance[static_cast<size_t>(i * size + j)];
      value /= n;
      squares += (i == j ? 1.0 : 2.0) * value * value;
      if (i == j) trace += value;
    }
  const double scale = std::max(trace / d, 1e-6);
  const double spread = squares / d - scale * scale;      // ||S - scale I||^2 / d
  const double error = (fourth / n - squares) / (n * d);  // of S, from the rows' own spread
  const double shrinkage = spread > 0 ? std::clamp(error / spread, 1e-3, 1.0) : 1.0;
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double& value = covariance[static_cast<size_t>(i * size + j)];
      value = (1 - shrinkage) * value + (i == j ? shrinkage * scale : 0.0);
    }
  cholesky(covariance, size, cancel);
  const std::vector<double> inverse = invertLower(covariance, size, cancel);
  gaussian.whitening.resize(inverse.size());
  std::transform(inverse.begin(), inverse.end(), gaussian.whitening.begin(),
                 [](double v) { return static_cast<float>(v); });
  return gaussian;
}

FeatureEvidence fitEvidence(const Device& device, const EvidenceConfig& config, const EvidenceLayout& layout,
                            const std::vector<float>& rows, const std::vector<float>& images, int64_t keep,
                            const Cancel& cancel) {
  const int64_t channels = layout.channels, count = static_cast<int64_t>(rows.size()) / channels;
  if (count < 1 || static_cast<int64_t>(rows.size()) != count * channels)
    throw Error("ERR_ARGUMENT", "evidence: expected rows of " + std::to_string(channels) + " channels, got " +
                                    std::to_string(rows.size()) + " values");
  if (images.empty() || static_cast<int64_t>(images.size()) % (2 * channels) != 0)
    throw Error("ERR_ARGUMENT", "evidence: expected statistics of " + std::to_string(2 * channels) +
                                    " values an image, got " + std::to_string(images.size()));
  for (const std::vector<float>* values : {&rows, &images})
    if (!std::all_of(values->begin(), values->end(), [](float v) { return std::isfinite(v); }))
      throw Error("ERR_NUMERIC", "evidence: a feature of a good image is not finite");
  FeatureEvidence evidence;
  columnStatistics(rows.data(), count, channels, evidence.mean, evidence.std);
  for (const std::vector<int64_t>& strides : config.banks) {
    const auto [first, size] = layout.range(strides);
    const std::vector<float> columns = normalisedColumns(rows, channels, first, size, evidence.mean, evidence.std);
    const std::vector<int64_t> chosen = coverage(device, columns.data(), count, size, keep, cancel);
    std::vector<float> kept(chosen.size() * static_cast<size_t>(size));
    for (size_t i = 0; i < chosen.size(); ++i)
      std::memcpy(kept.data() + i * static_cast<size_t>(size), columns.data() + chosen[i] * size,
                  static_cast<size_t>(size) * sizeof(float));
    evidence.banks.emplace_back(kept.data(), static_cast<int64_t>(chosen.size()), size);
  }
  cancel.check();
  if (config.image) {
    evidence.image =
        WholeGaussian::fit(images.data(), static_cast<int64_t>(images.size()) / (2 * channels), 2 * channels, cancel);
  }
  return evidence;
}

}  // namespace ddad
