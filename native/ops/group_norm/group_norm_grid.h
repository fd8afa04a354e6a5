#pragma once
// Bodies of the GPU's group norm; the formulas are those of ops/group_norm/group_norm.cpp. Sweeps over the pixels take
// a tile: a block has kColumns runs of channels and one chunk of a sample's pixels, its kLanes rows of threads every
// kLanes-th of them. What is summed goes to [samples, chunks, channels] and is put together group by group.
#include <cstdint>

#include "ops/elementwise/elementwise_grid.h"

namespace ddad {

/// The concatenation of one or two sources along the channels, [samples, pixels, channels].
template <class T>
struct NormSources {
  const T* x[2];
  int64_t channels[2];  // the second is 0 where there is one source
  int64_t pixels;
  bool aligned;  // pointers to 16 bytes, channels in whole runs

  DDAD_HD_MEMBER int64_t all() const { return channels[0] + channels[1]; }
  /// Where channel c of a pixel lies.
  DDAD_HD_MEMBER const T* at(int64_t sample, int64_t pixel, int64_t c) const {
    const int64_t row = sample * pixels + pixel;
    return c < channels[0] ? x[0] + row * channels[0] + c : x[1] + row * channels[1] + (c - channels[0]);
  }
  DDAD_HD_MEMBER void load(int64_t sample, int64_t pixel, int64_t c, int count, float to[kRun]) const {
    if (aligned) return loadRun(at(sample, pixel, c), to);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) to[i] = i < count ? toFloat(*at(sample, pixel, c + i)) : 0.0f;
  }
};

/// A thread's share of a sweep.
struct NormTile {
  static constexpr int kColumns = 16, kLanes = 16, kThreads = kColumns * kLanes;
  int64_t channels, pixels, chunks, chunkRows;

  GridIndex extent(int64_t samples) const {
    return {static_cast<int>(blocksOf(channels, kColumns * kRun)), static_cast<int>(samples * chunks)};
  }
  DDAD_HD_MEMBER int64_t sample(GridIndex block) const { return block.y / chunks; }
  DDAD_HD_MEMBER int64_t firstRow(GridIndex block, int thread) const {
    return block.y % chunks * chunkRows + thread / kColumns;
  }
  DDAD_HD_MEMBER int64_t lastRow(GridIndex block) const {
    const int64_t last = (block.y % chunks + 1) * chunkRows;
    return last < pixels ? last : pixels;
  }
  DDAD_HD_MEMBER int64_t channel(GridIndex block, int thread) const {
    return (static_cast<int64_t>(block.x) * kColumns + thread % kColumns) * kRun;
  }
  DDAD_HD_MEMBER int count(int64_t c) const {
    return c >= channels ? 0 : channels - c < kRun ? static_cast<int>(channels - c) : kRun;
  }
};

/// Two sums of a tile's lanes, and where they go.
struct NormLaneSums {
  float first[NormTile::kLanes][NormTile::kColumns * kRun];
  float second[NormTile::kLanes][NormTile::kColumns * kRun];

  DDAD_HD_MEMBER void keep(int thread, const float a[kRun], const float b[kRun]) {
    const int lane = thread / NormTile::kColumns, place = thread % NormTile::kColumns * kRun;
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) {
      first[lane][place + i] = a[i];
      second[lane][place + i] = b[i];
    }
  }
  /// Of the block's channel `thread` to to1 and to2 [samples, chunks, channels].
  DDAD_HD_MEMBER void add(const NormTile& tile, GridIndex block, int thread, float* to1, float* to2) const {
    const int64_t c = static_cast<int64_t>(block.x) * NormTile::kColumns * kRun + thread;
    if (thread >= NormTile::kColumns * kRun || c >= tile.channels) return;
    float a = 0.0f, b = 0.0f;
    for (int lane = 0; lane < NormTile::kLanes; ++lane) {
      a += first[lane][thread];
      b += second[lane][thread];
    }
    to1[block.y * tile.channels + c] = a;
    to2[block.y * tile.channels + c] = b;
  }
};

DDAD_HD void loadChannels(const float* from, int64_t at, int count, float to[kRun]) {
  DDAD_UNROLL
  for (int i = 0; i < kRun; ++i) to[i] = i < count ? from[at + i] : 0.0f;
}

/// Sums of x - pivot and of its square; the pivot is the sample's first pixel, so that a large mean cancels nothing.
template <class T>
struct NormSums {
  static constexpr int kThreads = NormTile::kThreads, kPhases = 2, kBlocks = 5;
  using Shared = NormLaneSums;
  NormTile tile;
  NormSources<T> sources;
  float *s1, *s2;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 1) {
      shared.add(tile, block, thread, s1, s2);
    } else {
      const int64_t sample = tile.sample(block), c = tile.channel(block, thread), last = tile.lastRow(block);
      const int count = tile.count(c);
      float sum[kRun] = {}, squares[kRun] = {};
      if (count > 0) {
        float pivot[kRun];
        sources.load(sample, 0, c, count, pivot);
        for (int64_t row = tile.firstRow(block, thread); row < last; row += NormTile::kLanes) {
          float x[kRun];
          sources.load(sample, row, c, count, x);
          DDAD_UNROLL
          for (int i = 0; i < kRun; ++i) {
            const float d = x[i] - pivot[i];
            sum[i] += d;
            squares[i] += d * d;
          }
        }
      }
      shared.keep(thread, sum, squares);
    }
  }
};

/// y = f(a x + b).
template <class T, class Out>
struct NormApply {
  static constexpr int kThreads = NormTile::kThreads, kPhases = 1, kBlocks = 5;
  struct Shared {};
  NormTile tile;
  NormSources<T> sources;
  const float *a, *b;  // [samples, channels]
  Out* out;
  bool silu, alignedOut;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t sample = tile.sample(block), c = tile.channel(block, thread), last = tile.lastRow(block);
    const int count = tile.count(c);
    if (count == 0) return;
    float scale[kRun], shift[kRun];
    loadChannels(a, sample * tile.channels + c, count, scale);
    loadChannels(b, sample * tile.channels + c, count, shift);
    Out* const to = out + sample * tile.pixels * tile.channels + c;
    for (int64_t row = tile.firstRow(block, thread); row < last; row += NormTile::kLanes) {
      float x[kRun];
      sources.load(sample, row, c, count, x);
      DDAD_UNROLL
      for (int i = 0; i < kRun; ++i) {
        const float z = scale[i] * x[i] + shift[i];
        x[i] = silu ? z * sigmoidFor<Out>(z) : z;
      }
      storeValues(x, alignedOut, count, to + row * tile.channels);
    }
  }
};

/// dy f'(z) of a run, z = a x + b, for a gradient of type T.
template <class T>
DDAD_HD void normSlope(const float x[kRun], const float a[kRun], const float b[kRun], bool silu, float dy[kRun]) {
  if (!silu) return;
  DDAD_UNROLL
  for (int i = 0; i < kRun; ++i) {
    const float z = a[i] * x[i] + b[i];
    dy[i] *= siluSlope(z, sigmoidFor<T>(z));
  }
}

/// Sums of dz and of dz (x - mu), mu the group's mean less what is added to x.
template <class T, class Out>
struct NormGradSums {
  static constexpr int kThreads = NormTile::kThreads, kPhases = 2, kBlocks = sizeof(T) == 2 ? 3 : 2;
  using Shared = NormLaneSums;
  NormTile tile;
  NormSources<T> sources;
  const Out* dy;
  const float *a, *b, *mu;  // [samples, channels]
  bool silu, alignedOut;
  float *s1, *s2;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 1) {
      shared.add(tile, block, thread, s1, s2);
    } else {
      const int64_t sample = tile.sample(block), c = tile.channel(block, thread), last = tile.lastRow(block);
      const int count = tile.count(c);
      float sum[kRun] = {}, products[kRun] = {};
      if (count > 0) {
        const int64_t at = sample * tile.channels + c;
        float scale[kRun], shift[kRun], centre[kRun];
        loadChannels(a, at, count, scale);
        loadChannels(b, at, count, shift);
        loadChannels(mu, at, count, centre);
        const Out* const from = dy + sample * tile.pixels * tile.channels + c;
        for (int64_t row = tile.firstRow(block, thread); row < last; row += NormTile::kLanes) {
          float x[kRun], dz[kRun];
          sources.load(sample, row, c, count, x);
          loadValues(from + row * tile.channels, alignedOut, count, dz);
          normSlope<T>(x, scale, shift, silu, dz);
          DDAD_UNROLL
          for (int i = 0; i < kRun; ++i) {
            sum[i] += dz[i];
            products[i] += dz[i] * (x[i] - centre[i]);
          }
        }
      }
      shared.keep(thread, sum, products);
    }
  }
};

/// dx = p dz + q x + r, to each source its channels.
template <class T, class Out>
struct NormGradApply {
  static constexpr int kThreads = NormTile::kThreads, kPhases = 1, kBlocks = sizeof(T) == 2 ? 3 : 2;
  struct Shared {};
  NormTile tile;
  NormSources<T> sources;
  const Out* dy;
  const float *a, *b, *p, *q, *r;  // [samples, channels]
  T* dx[2];                        // null where it is not wanted
  bool accumulate[2];
  bool silu, alignedOut, alignedGradient;

  DDAD_HD_MEMBER T* target(int64_t sample, int64_t pixel, int64_t c, int* source) const {
    const int64_t row = sample * tile.pixels + pixel;
    *source = c < sources.channels[0] ? 0 : 1;
    if (dx[*source] == nullptr) return nullptr;
    return dx[*source] + row * sources.channels[*source] + (*source == 0 ? c : c - sources.channels[0]);
  }

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t sample = tile.sample(block), c = tile.channel(block, thread), last = tile.lastRow(block);
    const int count = tile.count(c);
    if (count == 0) return;
    const int64_t at = sample * tile.channels + c;
    float scale[kRun], shift[kRun], ofGradient[kRun], ofValue[kRun], constant[kRun];
    loadChannels(a, at, count, scale);
    loadChannels(b, at, count, shift);
    loadChannels(p, at, count, ofGradient);
    loadChannels(q, at, count, ofValue);
    loadChannels(r, at, count, constant);
    const Out* const from = dy + sample * tile.pixels * tile.channels + c;
    for (int64_t row = tile.firstRow(block, thread); row < last; row += NormTile::kLanes) {
      float x[kRun], dz[kRun];
      sources.load(sample, row, c, count, x);
      loadValues(from + row * tile.channels, alignedOut, count, dz);
      normSlope<T>(x, scale, shift, silu, dz);
      DDAD_UNROLL
      for (int i = 0; i < kRun; ++i) dz[i] = ofGradient[i] * dz[i] + ofValue[i] * x[i] + constant[i];
      int source = 0;
      if (alignedGradient) {  // then a run is of one source
        T* const to = target(sample, row, c, &source);
        if (to == nullptr) continue;
        if (accumulate[source]) {
          loadRun(to, x);
          DDAD_UNROLL
          for (int i = 0; i < kRun; ++i) dz[i] += x[i];
        }
        storeRun(dz, to);
      } else {
        DDAD_UNROLL
        for (int i = 0; i < kRun; ++i) {
          T* const to = i < count ? target(sample, row, c + i, &source) : nullptr;
          if (to != nullptr) convert(dz[i] + (accumulate[source] ? toFloat(*to) : 0.0f), *to);
        }
      }
    }
  }
};

}  // namespace ddad
