#pragma once
// What group norm makes of its sums, group by group: a block has one group of one sample.
#include <cstdint>

#include "ops/group_norm/group_norm_grid.h"
#include "ops/group_norm/group_norm_math.h"

namespace ddad {

constexpr int kMostPerGroup = 512;  // channels

/// What is known of a norm beside its input.
struct NormParameters {
  int64_t samples, channels, perGroup, pixels, chunks;
  const float *gamma, *beta;  // [channels]
  const float* scaleShift;    // [samples, 2 channels]; null in the other modes
  const float* added;         // [samples, channels]; null in the other modes
  float eps;

  DDAD_HD_MEMBER double factor(int64_t sample, int64_t c) const {
    return scaleShift == nullptr ? 1.0 : 1.0 + static_cast<double>(scaleShift[sample * 2 * channels + c]);
  }
};

/// Adds the chunks' sums of a group's channels up: parts of them first, then the parts.
struct NormGroupSums {
  static constexpr int kThreads = 128;
  double first[kMostPerGroup > kThreads ? kMostPerGroup : kThreads];
  double second[kMostPerGroup > kThreads ? kMostPerGroup : kThreads];

  DDAD_HD_MEMBER static int64_t lanes(int64_t perGroup) { return perGroup >= kThreads ? 1 : kThreads / perGroup; }
  DDAD_HD_MEMBER void gather(const NormParameters& k, GridIndex block, int thread, const float* s1, const float* s2) {
    const int64_t across = lanes(k.perGroup);
    for (int64_t unit = thread; unit < k.perGroup * across; unit += kThreads) {
      const int64_t c = block.x * k.perGroup + unit % k.perGroup;
      double a = 0.0, b = 0.0;
      for (int64_t i = unit / k.perGroup; i < k.chunks; i += across) {
        const int64_t at = (block.y * k.chunks + i) * k.channels + c;
        a += static_cast<double>(s1[at]);
        b += static_cast<double>(s2[at]);
      }
      first[unit] = a;
      second[unit] = b;
    }
  }
  /// Channel j of the group.
  DDAD_HD_MEMBER void total(int64_t perGroup, int64_t j, double* a, double* b) const {
    *a = *b = 0.0;
    for (int64_t lane = 0; lane < lanes(perGroup); ++lane) {
      *a += first[lane * perGroup + j];
      *b += second[lane * perGroup + j];
    }
  }
};

/// Mean and variance, and with them the affine maps of each channel: z = a x + b, xhat = h (x - mu), and xhat's mean.
template <class T>
struct NormStatistics {
  static constexpr int kThreads = NormGroupSums::kThreads, kPhases = 4;
  struct Shared {
    NormGroupSums sums;
    double mean[kMostPerGroup], within[kMostPerGroup];
    double groupMean, rstd;
  };
  NormParameters k;
  NormSources<T> sources;
  const float *s1, *s2;
  float *a, *b, *h, *mu, *hat;

  GridIndex extent() const { return {static_cast<int>(k.channels / k.perGroup), static_cast<int>(k.samples)}; }

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    const int64_t sample = block.y, first = block.x * k.perGroup;
    const auto count = static_cast<double>(k.pixels);
    if constexpr (kPhase == 0) {
      shared.sums.gather(k, block, thread, s1, s2);
    } else if constexpr (kPhase == 1) {
      for (int64_t j = thread; j < k.perGroup; j += kThreads) {
        double t1, t2;
        shared.sums.total(k.perGroup, j, &t1, &t2);
        double mean = static_cast<double>(toFloat(*sources.at(sample, 0, first + j))) + t1 / count;
        if (k.added != nullptr) mean += static_cast<double>(k.added[sample * k.channels + first + j]);
        shared.mean[j] = mean;
        shared.within[j] = t2 - t1 * t1 / count;
      }
    } else if constexpr (kPhase == 2) {
      if (thread != 0) return;
      double mean = 0.0, within = 0.0, between = 0.0;
      for (int64_t j = 0; j < k.perGroup; ++j) {
        mean += shared.mean[j];
        within += shared.within[j];
      }
      mean /= static_cast<double>(k.perGroup);
      for (int64_t j = 0; j < k.perGroup; ++j) between += (shared.mean[j] - mean) * (shared.mean[j] - mean) * count;
      shared.groupMean = mean;
      shared.rstd = normRstd(within + between, count * static_cast<double>(k.perGroup), static_cast<double>(k.eps));
    } else {
      for (int64_t j = thread; j < k.perGroup; j += kThreads) {
        const int64_t c = first + j, at = sample * k.channels + c;
        const double added = k.added != nullptr ? static_cast<double>(k.added[at]) : 0.0;
        const double shift =
            k.scaleShift != nullptr ? static_cast<double>(k.scaleShift[sample * 2 * k.channels + k.channels + c]) : 0.0;
        const NormMaps maps = normMaps(shared.groupMean, shared.rstd, added, static_cast<double>(k.gamma[c]),
                                       static_cast<double>(k.beta[c]), k.factor(sample, c), shift);
        a[at] = static_cast<float>(maps.a);
        b[at] = static_cast<float>(maps.b);
        h[at] = static_cast<float>(shared.rstd);
        mu[at] = static_cast<float>(shared.groupMean - added);
        hat[at] = static_cast<float>((shared.mean[j] - shared.groupMean) * shared.rstd);
      }
    }
  }
};

/// Of the sums of dz and dz (x - mu): the totals of dz and dz xhat over the pixels, and p, q, r of dx = p dz + q x + r;
/// the gradient of an added vector.
struct NormGradTotals {
  static constexpr int kThreads = NormGroupSums::kThreads, kPhases = 4;
  struct Shared {
    NormGroupSums sums;
    double t1[kMostPerGroup], t2[kMostPerGroup];
    double mean1, mean2;
  };
  NormParameters k;
  const float *s1, *s2;
  const float *h, *mu, *hat;
  float *total1, *total2, *p, *q, *r;
  float* addedGradient;  // null where it is not wanted
  bool accumulate;

  GridIndex extent() const { return {static_cast<int>(k.channels / k.perGroup), static_cast<int>(k.samples)}; }
  DDAD_HD_MEMBER double gain(int64_t sample, int64_t c) const {
    return static_cast<double>(k.gamma[c]) * k.factor(sample, c);
  }

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    const int64_t sample = block.y, first = block.x * k.perGroup;
    if constexpr (kPhase == 0) {
      shared.sums.gather(k, block, thread, s1, s2);
    } else if constexpr (kPhase == 1) {
      for (int64_t j = thread; j < k.perGroup; j += kThreads) {
        shared.sums.total(k.perGroup, j, &shared.t1[j], &shared.t2[j]);
        shared.t2[j] *= static_cast<double>(h[sample * k.channels + first + j]);
      }
    } else if constexpr (kPhase == 2) {
      if (thread != 0) return;
      double mean1 = 0.0, mean2 = 0.0;
      for (int64_t j = 0; j < k.perGroup; ++j) {
        const double factor = gain(sample, first + j);
        mean1 += factor * shared.t1[j];
        mean2 += factor * shared.t2[j];
      }
      const double count = static_cast<double>(k.pixels * k.perGroup);
      shared.mean1 = mean1 / count;
      shared.mean2 = mean2 / count;
    } else {
      for (int64_t j = thread; j < k.perGroup; j += kThreads) {
        const int64_t c = first + j, at = sample * k.channels + c;
        const double rstd = static_cast<double>(h[at]), factor = gain(sample, c);
        total1[at] = static_cast<float>(shared.t1[j]);
        total2[at] = static_cast<float>(shared.t2[j]);
        const NormGradientMaps maps =
            normGradientMaps(rstd, -rstd * static_cast<double>(mu[at]), factor, shared.mean1, shared.mean2);
        p[at] = static_cast<float>(maps.p);
        q[at] = static_cast<float>(maps.q);
        r[at] = static_cast<float>(maps.r);
        if (addedGradient == nullptr) continue;
        const double sum = normAddedGradient(rstd, factor, shared.t1[j], static_cast<double>(k.pixels), shared.mean1,
                                             shared.mean2, static_cast<double>(hat[at]));
        addedGradient[at] = (accumulate ? addedGradient[at] : 0.0f) + static_cast<float>(sum);
      }
    }
  }
};

/// Gradients of gamma and beta, and of scale and shift: a channel a thread.
struct NormParameterGradients {
  NormParameters k;
  const float *total1, *total2;
  float *gammaGradient, *betaGradient;  // null where they are not wanted
  float* scaleShiftGradient;            // [samples, 2 channels]; null where it is not wanted
  bool accumulate;

  DDAD_HD_MEMBER int64_t items() const { return k.channels; }
  DDAD_HD_MEMBER void item(int64_t c) const {
    double dGamma = 0.0, dBeta = 0.0;
    for (int64_t sample = 0; sample < k.samples; ++sample) {
      const auto t1 = static_cast<double>(total1[sample * k.channels + c]),
                 t2 = static_cast<double>(total2[sample * k.channels + c]);
      const double factor = k.factor(sample, c);
      dGamma += factor * t2;
      dBeta += factor * t1;
      if (scaleShiftGradient == nullptr) continue;
      float* const scale = scaleShiftGradient + sample * 2 * k.channels + c;
      float* const shift = scale + k.channels;
      const double d = static_cast<double>(k.gamma[c]) * t2 + static_cast<double>(k.beta[c]) * t1;
      *scale = (accumulate ? *scale : 0.0f) + static_cast<float>(d);
      *shift = (accumulate ? *shift : 0.0f) + static_cast<float>(t1);
    }
    if (gammaGradient == nullptr) return;
    gammaGradient[c] = static_cast<float>(dGamma);
    betaGradient[c] = static_cast<float>(dBeta);
  }
};

}  // namespace ddad
