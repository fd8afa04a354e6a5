#pragma once
// Bodies of nearest up-sampling and 2x2 pooling; see ops/resample/resample.cpp. A thread takes a run of channels of a
// coarse pixel.
#include <cstdint>

#include "ops/elementwise/elementwise_grid.h"

namespace ddad {

/// Coarse pixels and the four fine ones that belong to each.
struct ResamplePlace {
  int64_t rows, width, channels;  // of the coarse image; rows: samples * height

  DDAD_HD_MEMBER int64_t runs() const { return blocksOf(channels, kRun); }
  DDAD_HD_MEMBER int64_t items() const { return rows * width * runs(); }
  /// Of item i: its coarse pixel, its channel, and how many channels there are.
  DDAD_HD_MEMBER void find(int64_t i, int64_t* pixel, int64_t* c, int* count) const {
    *pixel = i / runs();
    *c = (i - *pixel * runs()) * kRun;
    *count = channels - *c < kRun ? static_cast<int>(channels - *c) : kRun;
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
  ResamplePlace place;
  const From* from;
  To* to;
  float scale;
  bool accumulate, aligned;

  DDAD_HD_MEMBER int64_t items() const { return place.items(); }
  DDAD_HD_MEMBER void item(int64_t at) const {
    int64_t pixel, c;
    int count;
    place.find(at, &pixel, &c, &count);
    float x[kRun];
    loadValues(from + pixel * place.channels + c, aligned, count, x);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) x[i] *= scale;
    DDAD_UNROLL
    for (int k = 0; k < 4; ++k) {
      To* const target = to + place.fine(pixel, k, c);
      float y[kRun];
      if (accumulate) loadValues(target, aligned, count, y);
      DDAD_UNROLL
      for (int i = 0; i < kRun; ++i) y[i] = accumulate ? y[i] + x[i] : x[i];
      storeValues(y, aligned, count, target);
    }
  }
};

/// coarse[y, x] (+)= sum over i, j of fine[2y + i, 2x + j] * scale.
template <class From, class To>
struct GatherPixels {
  ResamplePlace place;
  const From* from;
  To* to;
  float scale;
  bool accumulate, aligned;

  DDAD_HD_MEMBER int64_t items() const { return place.items(); }
  DDAD_HD_MEMBER void item(int64_t at) const {
    int64_t pixel, c;
    int count;
    place.find(at, &pixel, &c, &count);
    float sum[kRun] = {};
    DDAD_UNROLL
    for (int k = 0; k < 4; ++k) {
      const From* const source = from + place.fine(pixel, k, c);
      float x[kRun];
      loadValues(source, aligned, count, x);
      DDAD_UNROLL
      for (int i = 0; i < kRun; ++i) sum[i] += x[i];
    }
    To* const target = to + pixel * place.channels + c;
    float before[kRun] = {};
    if (accumulate) loadValues(target, aligned, count, before);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) sum[i] = before[i] + sum[i] * scale;
    storeValues(sum, aligned, count, target);
  }
};

}  // namespace ddad
