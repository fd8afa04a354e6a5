#pragma once
// Bodies of squeeze-and-excitation; see ops/squeeze_excite/squeeze_excite.cpp. float32.
#include <cstdint>

#include "ops/elementwise/elementwise_grid.h"

namespace ddad {

/// A sample's saved vectors: the mean [channels], the reduced vector before and after f [reduced] each, the gate
/// [channels].
struct SqueezeSaved {
  float* data;
  int64_t channels, reduced;

  DDAD_HD_MEMBER int64_t size() const { return 2 * channels + 2 * reduced; }
  DDAD_HD_MEMBER float* mean(int64_t n) const { return data + n * size(); }
  DDAD_HD_MEMBER float* argument(int64_t n) const { return mean(n) + channels; }
  DDAD_HD_MEMBER float* hidden(int64_t n) const { return argument(n) + reduced; }
  DDAD_HD_MEMBER float* gate(int64_t n) const { return hidden(n) + reduced; }
};

/// to[n, c] = scale * the sum over the pixels of a, or of a * b where there is a b. A block has kColumns channels of a
/// sample, kLanes threads each.
struct ChannelSums {
  static constexpr int kColumns = 32, kLanes = 8, kThreads = kColumns * kLanes, kPhases = 2;
  struct Shared {
    float sums[kLanes][kColumns];
  };
  const float *a, *b;
  float* to;
  int64_t samples, pixels, channels, stride;  // stride: from one sample's result to the next
  float scale;

  GridIndex extent() const { return {static_cast<int>(blocksOf(channels, kColumns)), static_cast<int>(samples)}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    const int column = thread % kColumns;
    const int64_t c = static_cast<int64_t>(block.x) * kColumns + column;
    if constexpr (kPhase == 0) {
      float sum = 0.0f;
      if (c < channels)
        for (int64_t i = thread / kColumns; i < pixels; i += kLanes) {
          const int64_t at = (block.y * pixels + i) * channels + c;
          sum += b == nullptr ? a[at] : a[at] * b[at];
        }
      shared.sums[thread / kColumns][column] = sum;
    } else {
      if (thread >= kColumns || c >= channels) return;
      double sum = 0.0;
      for (int lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(shared.sums[lane][column]);
      to[block.y * stride + c] = static_cast<float>(sum) * scale;
    }
  }
};

/// The two layers of a sample, given its mean.
struct SqueezeGate {
  static constexpr int kThreads = 128, kPhases = 2;
  struct Shared {};
  SqueezeSaved saved;
  const float *w1, *b1, *w2, *b2;
  Activation activation;
  int64_t samples;

  GridIndex extent() const { return {static_cast<int>(samples), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t n = block.x, channels = saved.channels, reduced = saved.reduced;
    if constexpr (kPhase == 0) {
      for (int64_t r = thread; r < reduced; r += kThreads) {
        float sum = b1[r];
        for (int64_t c = 0; c < channels; ++c) sum += w1[r * channels + c] * saved.mean(n)[c];
        saved.argument(n)[r] = sum;
        saved.hidden(n)[r] = activated(activation, sum);
      }
    } else {
      for (int64_t c = thread; c < channels; c += kThreads) {
        float sum = b2[c];
        for (int64_t r = 0; r < reduced; ++r) sum += w2[c * reduced + r] * saved.hidden(n)[r];
        saved.gate(n)[c] = sigmoidOf(sum);
      }
    }
  }
};

/// out = x * gate; backward: dx (+)= dy * gate + shift.
struct SqueezeScale {
  SqueezeSaved saved;
  const float* x;
  const float* shift;  // [samples, channels]; null forward
  float* out;
  int64_t samples, pixels;
  bool accumulate;

  DDAD_HD_MEMBER int64_t items() const { return samples * pixels * saved.channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t pixel = i / saved.channels, c = i - pixel * saved.channels, n = pixel / pixels;
    float value = x[i] * saved.gate(n)[c];
    if (shift != nullptr) value += shift[n * saved.channels + c];
    out[i] = accumulate ? out[i] + value : value;
  }
};

/// Gradients of a sample's vectors: by the gate's argument [channels], by the reduced vector's argument [reduced], and
/// what each pixel gets through the mean [channels]. `gate` holds the sums of x dy when it starts.
struct SqueezeVectorGradients {
  static constexpr int kThreads = 128, kPhases = 3;
  struct Shared {};
  SqueezeSaved saved;
  const float *w1, *w2;
  Activation activation;
  float *gate, *argument, *shift;
  int64_t samples, pixels;

  GridIndex extent() const { return {static_cast<int>(samples), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t n = block.x, channels = saved.channels, reduced = saved.reduced;
    if constexpr (kPhase == 0) {
      for (int64_t c = thread; c < channels; c += kThreads) {
        const float g = saved.gate(n)[c];
        gate[n * channels + c] *= g * (1.0f - g);
      }
    } else if constexpr (kPhase == 1) {
      for (int64_t r = thread; r < reduced; r += kThreads) {
        float sum = 0.0f;
        for (int64_t c = 0; c < channels; ++c) sum += w2[c * reduced + r] * gate[n * channels + c];
        const float kept = activation == Activation::kSilu ? saved.argument(n)[r] : saved.hidden(n)[r];
        argument[n * reduced + r] = sum * activationSlope(activation, kept);
      }
    } else {
      for (int64_t c = thread; c < channels; c += kThreads) {
        float sum = 0.0f;
        for (int64_t r = 0; r < reduced; ++r) sum += w1[r * channels + c] * argument[n * reduced + r];
        shift[n * channels + c] = sum / static_cast<float>(pixels);
      }
    }
  }
};

/// weight[i, j] = the sum over samples of rows[n, i] * columns[n, j], bias[i] that of rows[n, i].
struct SqueezeWeightGradient {
  const float *rows, *columns;
  int64_t samples, height, width, rowStride, columnStride;
  float *weight, *bias;

  DDAD_HD_MEMBER int64_t items() const { return height * width; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t row = i / width, column = i - row * width;
    float sum = 0.0f, biasSum = 0.0f;
    for (int64_t n = 0; n < samples; ++n) {
      sum += rows[n * rowStride + row] * columns[n * columnStride + column];
      biasSum += rows[n * rowStride + row];
    }
    weight[i] = sum;
    if (column == 0) bias[row] = biasSum;
  }
};

}  // namespace ddad
