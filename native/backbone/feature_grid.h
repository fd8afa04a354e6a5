#pragma once
// Bodies of the feature kernels; see backbone/features.h, tap_resize.h and gaussian.h.
#include <cmath>
#include <cstdint>

#include "backbone/feature_functions.h"
#include "base/bf16.h"
#include "base/bilinear.h"
#include "device/grid.h"

namespace ddad {

/// Means over squares of `scale` pixels: a value of the result a thread.
struct ReducePixels {
  const float* from;
  int64_t rows, width, channels, scale;  // rows: images * height, of the result
  float* to;

  DDAD_HD_MEMBER int64_t items() const { return rows * width * channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t pixel = i / channels, c = i - pixel * channels, y = pixel / width, x = pixel - y * width;
    const int64_t row = width * scale * channels;
    float sum = 0.0f;
    for (int64_t dy = 0; dy < scale; ++dy)
      for (int64_t dx = 0; dx < scale; ++dx) sum += from[(y * scale + dy) * row + (x * scale + dx) * channels + c];
    to[i] = sum * (1.0f / static_cast<float>(scale * scale));
  }
};

/// One channel becomes three, three stay; the transpose sums three to one.
struct RepeatPixels {
  const float* from;
  int64_t count, channels;
  float* to;

  DDAD_HD_MEMBER int64_t items() const { return count * 3; }
  DDAD_HD_MEMBER void item(int64_t i) const { to[i] = channels == 3 ? from[i] : from[i / 3 * channels]; }
};

struct SumPixels {
  const float* from;
  int64_t count, channels;
  float* to;

  DDAD_HD_MEMBER int64_t items() const { return count * channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    to[i] = channels == 3 ? from[i] : from[3 * i] + from[3 * i + 1] + from[3 * i + 2];
  }
};

/// A chosen channel of a position a thread.
struct ResizeTapValues {
  TapResize r;
  const float* tap;
  float* features;

  DDAD_HD_MEMBER int64_t items() const { return r.images * r.height * r.width * r.count; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t position = i / r.count, k = i - position * r.count, row = position / r.width;
    const BilinearPlace y = bilinearPlace(row % r.height, r.inHeight, r.height),
                        x = bilinearPlace(position - row * r.width, r.inWidth, r.width);
    const float* const image = tap + row / r.height * r.inHeight * r.inWidth * r.inChannels + r.source[k];
    const float a = image[(y.low * r.inWidth + x.low) * r.inChannels],
                b = image[(y.low * r.inWidth + x.high) * r.inChannels],
                d = image[(y.high * r.inWidth + x.low) * r.inChannels],
                e = image[(y.high * r.inWidth + x.high) * r.inChannels];
    features[position * r.outChannels + r.place[k]] =
        (bilinearValue(a, b, d, e, x.fraction, y.fraction) - r.mean[k]) * r.inverseStd[k];
  }
};

/// The outputs [first, last) of one axis that can have taken from input i: those whose centre is within one of it, and
/// beyond the edges.
struct TouchingOutputs {
  int64_t first, last;
};
DDAD_HD TouchingOutputs touchingOutputs(int64_t i, int64_t in, int64_t n) {
  const double scale = static_cast<double>(n) / static_cast<double>(in);
  auto first = static_cast<int64_t>((static_cast<double>(i) - 0.5) * scale) - 2,
       last = static_cast<int64_t>((static_cast<double>(i) + 1.5) * scale) + 3;
  if (first < 0 || i == 0) first = 0;
  if (last > n || i == in - 1) last = n;
  return {first, last};
}

/// What a place gives to input i.
DDAD_HD float shareOf(const BilinearPlace& place, int64_t i) {
  return (place.low == i ? 1.0f - place.fraction : 0.0f) + (place.high == i ? place.fraction : 0.0f);
}

/// The transpose: a chosen channel of a position of the tap a thread gathers from the positions that took from it.
struct ResizeTapBackValues {
  TapResize r;
  const float* gradient;
  float* tapGradient;

  DDAD_HD_MEMBER int64_t items() const { return r.images * r.inHeight * r.inWidth * r.count; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t position = i / r.count, k = i - position * r.count, row = position / r.inWidth;
    const int64_t n = row / r.inHeight, iy = row - n * r.inHeight, ix = position - row * r.inWidth;
    const TouchingOutputs ys = touchingOutputs(iy, r.inHeight, r.height), xs = touchingOutputs(ix, r.inWidth, r.width);
    float sum = 0.0f;
    for (int64_t y = ys.first; y < ys.last; ++y) {
      const float ofRow = shareOf(bilinearPlace(y, r.inHeight, r.height), iy);
      if (ofRow == 0.0f) continue;
      for (int64_t x = xs.first; x < xs.last; ++x) {
        const float share = ofRow * shareOf(bilinearPlace(x, r.inWidth, r.width), ix);
        if (share != 0.0f) sum += share * gradient[((n * r.height + y) * r.width + x) * r.outChannels + r.place[k]];
      }
    }
    tapGradient[position * r.inChannels + r.source[k]] += sum * r.inverseStd[k];
  }
};

/// Squared distances and their gradient; partial [samples, blocks]. Grid [values, samples].
struct FeatureLossValues {
  static constexpr int kThreads = 256, kPhases = 2, kValues = 4;
  struct Shared {
    double sums[kThreads];
  };
  const float *predicted, *target;
  int64_t samples, elements;
  float scale;
  float* gradient;
  double* partial;

  DDAD_HD_MEMBER int64_t blocks() const { return blocksOf(elements, int64_t{kThreads} * kValues); }
  GridIndex extent() const { return {static_cast<int>(blocks()), static_cast<int>(samples)}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 0) {
      const int64_t start = static_cast<int64_t>(block.x) * kThreads * kValues + thread;
      double sum = 0.0;
      for (int j = 0; j < kValues; ++j) {
        const int64_t i = start + int64_t{j} * kThreads, at = block.y * elements + i;
        if (i >= elements) continue;
        const float d = predicted[at] - target[at];
        gradient[at] = d * scale;
        sum += static_cast<double>(d) * static_cast<double>(d);
      }
      shared.sums[thread] = sum;
    } else {
      if (thread != 0) return;
      double sum = 0.0;
      for (int i = 0; i < kThreads; ++i) sum += shared.sums[i];
      partial[block.y * blocks() + block.x] = sum;
    }
  }
};

struct FeatureLossTotals {
  const double* partial;
  int64_t samples, blocks, elements;
  double* losses;

  DDAD_HD_MEMBER int64_t items() const { return samples; }
  DDAD_HD_MEMBER void item(int64_t n) const {
    double sum = 0.0;
    for (int64_t i = 0; i < blocks; ++i) sum += partial[n * blocks + i];
    losses[n] = sum / static_cast<double>(elements);
  }
};

/// A position a block: the mean over channels of the squared distance.
struct FeatureErrors {
  static constexpr int kThreads = 64, kPhases = 2;
  struct Shared {
    float sums[kThreads];
  };
  const float *predicted, *target;
  int64_t positions, channels;
  float* errors;

  GridIndex extent() const { return {static_cast<int>(positions), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 0) {
      float sum = 0.0f;
      for (int64_t c = thread; c < channels; c += kThreads) {
        const float d = predicted[block.x * channels + c] - target[block.x * channels + c];
        sum += d * d;
      }
      shared.sums[thread] = sum;
    } else {
      if (thread != 0) return;
      float sum = 0.0f;
      for (int i = 0; i < kThreads; ++i) sum += shared.sums[i];
      errors[block.x] = sum / static_cast<float>(channels);
    }
  }
};

constexpr int kMostFeatureDims = 4096;

/// A position of an image a block: the distance, and where it is wanted the gradient of weight * distance.
struct MahalanobisPositions {
  static constexpr int kThreads = 128, kPhases = 4;
  struct Shared {
    float difference[kMostFeatureDims];
    double sums[kThreads];
    double distance;
  };
  const float *mean, *precision;
  bool pooled;
  int64_t d;
  const float* features;
  int64_t images, positions;
  float* distances;
  const float* weights;
  float* gradient;  // may be null

  GridIndex extent() const { return {static_cast<int>(images * positions), 1}; }
  DDAD_HD_MEMBER float product(const float* matrix, const Shared& shared, int64_t k) const {
    float sum = 0.0f;  // the matrix is symmetric: neighbours read neighbours
    for (int64_t j = 0; j < d; ++j) sum += matrix[j * d + k] * shared.difference[j];
    return sum;
  }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    const int64_t position = block.x % positions, group = pooled ? 0 : position;
    const float* const matrix = precision + group * d * d;
    if constexpr (kPhase == 0) {
      for (int64_t k = thread; k < d; k += kThreads)
        shared.difference[k] = features[block.x * d + k] - mean[group * d + k];
    } else if constexpr (kPhase == 1) {
      double sum = 0.0;
      for (int64_t k = thread; k < d; k += kThreads)
        sum += static_cast<double>(product(matrix, shared, k)) * static_cast<double>(shared.difference[k]);
      shared.sums[thread] = sum;
    } else if constexpr (kPhase == 2) {
      if (thread != 0) return;
      double squared = 0.0;
      for (int i = 0; i < kThreads; ++i) squared += shared.sums[i];
      shared.distance = squared < 0.0 ? 0.0 : sqrt(squared);  // rounding may make a tiny one negative; NaN stays
      distances[block.x] = static_cast<float>(shared.distance);
    } else {
      if (gradient == nullptr) return;
      const auto scale =
          static_cast<float>(shared.distance > 0.0 ? static_cast<double>(weights[position]) / shared.distance : 0.0);
      for (int64_t k = thread; k < d; k += kThreads) gradient[block.x * d + k] = product(matrix, shared, k) * scale;
    }
  }
};

}  // namespace ddad
