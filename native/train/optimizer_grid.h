#pragma once
// Bodies of the optimiser's kernels; see train/optimizer_simd.cpp.
#include <cmath>
#include <cstdint>

#include "base/bf16.h"
#include "base/vecmath.h"
#include "device/grid.h"
#include "train/optimizer_step.h"

namespace ddad {

/// One pass over all parameters of a network: four of them a thread, 16 bytes of each block at a time.
struct AdamwEma {
  static constexpr int kThreads = 256, kPhases = 1, kValues = 4;
  struct Shared {};
  struct alignas(8) HalfQuad {
    Bf16 v[kValues];
  };
  float* weights;
  const float* gradients;
  float *m, *v, *ema;
  Bf16* half;  // to 8 bytes; may be null
  int64_t n;
  AdamWStep k;

  GridIndex extent() const { return {static_cast<int>(blocksOf(n, int64_t{kThreads} * kValues)), 1}; }

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t first = (static_cast<int64_t>(block.x) * kThreads + thread) * kValues;
    if (first + kValues <= n) {
      const Pack<float> g = loadPack(gradients + first);
      Pack<float> w = loadPack(weights + first), mi = loadPack(m + first), vi = loadPack(v + first),
                  average = loadPack(ema + first);
      DDAD_UNROLL
      for (int i = 0; i < kValues; ++i) adamwUpdate(k, g.v[i], w.v[i], mi.v[i], vi.v[i], average.v[i]);
      storePack(weights + first, w);
      storePack(m + first, mi);
      storePack(v + first, vi);
      storePack(ema + first, average);
      if (half == nullptr) return;
      HalfQuad rounded;
      DDAD_UNROLL
      for (int i = 0; i < kValues; ++i) convert(w.v[i], rounded.v[i]);
      *reinterpret_cast<HalfQuad*>(half + first) = rounded;
      return;
    }
    for (int64_t i = first; i < n; ++i) {
      adamwUpdate(k, gradients[i], weights[i], m[i], v[i], ema[i]);
      if (half != nullptr) convert(weights[i], half[i]);
    }
  }
};

/// partial[block] = the sum of squares of the block's share of x.
struct SumOfSquares {
  static constexpr int kThreads = 256, kPhases = 2;
  struct Shared {
    double sums[kThreads];
  };
  const float* x;
  int64_t n, share;  // share: values a block, a multiple of 4
  double* partial;

  GridIndex extent() const { return {static_cast<int>(blocksOf(n, share)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 0) {
      const int64_t start = block.x * share, end = start + share < n ? start + share : n;
      double sum = 0.0;
      for (int64_t i = start + thread * 4; i < end; i += kThreads * 4) {
        float part = 0.0f;
        if (i + 4 <= end) {
          const Pack<float> values = loadPack(x + i);
          DDAD_UNROLL
          for (int j = 0; j < 4; ++j) part += values.v[j] * values.v[j];
        } else {
          for (int64_t j = i; j < end; ++j) part += x[j] * x[j];
        }
        sum += static_cast<double>(part);
      }
      shared.sums[thread] = sum;
    } else {
      if (thread != 0) return;
      double sum = 0.0;
      for (int i = 0; i < kThreads; ++i) sum += shared.sums[i];
      partial[block.x] = sum;
    }
  }
};

/// *result = the sum of `count` partial sums.
struct SumOfParts {
  static constexpr int kThreads = 256, kPhases = 2;
  struct Shared {
    double sums[kThreads];
  };
  const double* partial;
  int64_t count;
  double* result;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex, int thread, Shared& shared) const {
    if constexpr (kPhase == 0) {
      double sum = 0.0;
      for (int64_t i = thread; i < count; i += kThreads) sum += partial[i];
      shared.sums[thread] = sum;
    } else {
      if (thread != 0) return;
      double sum = 0.0;
      for (int i = 0; i < kThreads; ++i) sum += shared.sums[i];
      *result = sum;
    }
  }
};

}  // namespace ddad
