#pragma once
// Bodies of nearest up-sampling and 2x2 pooling; see ops/resample.cpp. A thread takes a run of channels of a coarse
// pixel.
#include <cstdint>

#include "ops/elementwise_grid.h"

namespace ddad {

/// Coarse pixels and the four fine ones that belong to each.
struct ResamplePlace {
  int64_t rows, width, channels;  // of the coarse image; rows: samples * height

  DDAD_HD_MEMBER int64_t runs() const { return blocksOf(channels, kRun); }
  GridIndex extent(int threads) const { return {static_cast<int>(blocksOf(rows * width * runs(), threads)), 1}; }
  /// Of item i: its coarse pixel, its channel, and how many channels there are; false behind the last.
  DDAD_HD_MEMBER bool find(int64_t i, int64_t* pixel, int64_t* c, int* count) const {
    *pixel = i / runs();
    *c = (i - *pixel * runs()) * kRun;
    *count = channels - *c < kRun ? static_cast<int>(channels - *c) : kRun;
    return *pixel < rows * width;
  }
  /// Value k (0 to 3) of a coarse pixel in the fine image.
  DDAD_HD_MEMBER int64_t fine(int64_t pixel, int k, int64_t c) const {
    const int64_t row = pixel / width, x = pixel - row * width;
    return ((row * 2 + k / 2) * width * 2 + x * 2 + k % 2) * channels + c;
  }
};

/// fine[2y + i, 2x + j] (+)= coarse[y, x] * scale.
template <class From, class To>
struct SpreadPixels {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  ResamplePlace place;
  const From* from;
  To* to;
  float scale;
  bool accumulate, aligned;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    int64_t pixel, c;
    int count;
    if (!place.find(static_cast<int64_t>(block.x) * kThreads + thread, &pixel, &c, &count)) return;
    float x[kRun];
    if (aligned)
      loadRun(from + pixel * place.channels + c, x);
    else
      loadSome(from + pixel * place.channels + c, count, x);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) x[i] *= scale;
    DDAD_UNROLL
    for (int k = 0; k < 4; ++k) {
      To* const target = to + place.fine(pixel, k, c);
      float y[kRun];
      if (accumulate && aligned)
        loadRun(target, y);
      else if (accumulate)
        loadSome(target, count, y);
      DDAD_UNROLL
      for (int i = 0; i < kRun; ++i) y[i] = accumulate ? y[i] + x[i] : x[i];
      if (aligned)
        storeRun(y, target);
      else
        storeSome(y, count, target);
    }
  }
};

/// coarse[y, x] (+)= sum over i, j of fine[2y + i, 2x + j] * scale.
template <class From, class To>
struct GatherPixels {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  ResamplePlace place;
  const From* from;
  To* to;
  float scale;
  bool accumulate, aligned;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    int64_t pixel, c;
    int count;
    if (!place.find(static_cast<int64_t>(block.x) * kThreads + thread, &pixel, &c, &count)) return;
    float sum[kRun] = {};
    DDAD_UNROLL
    for (int k = 0; k < 4; ++k) {
      const From* const source = from + place.fine(pixel, k, c);
      float x[kRun];
      if (aligned)
        loadRun(source, x);
      else
        loadSome(source, count, x);
      DDAD_UNROLL
      for (int i = 0; i < kRun; ++i) sum[i] += x[i];
    }
    To* const target = to + pixel * place.channels + c;
    float before[kRun] = {};
    if (accumulate && aligned)
      loadRun(target, before);
    else if (accumulate)
      loadSome(target, count, before);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) sum[i] = before[i] + sum[i] * scale;
    if (aligned)
      storeRun(sum, target);
    else
      storeSome(sum, count, target);
  }
};

}  // namespace ddad
