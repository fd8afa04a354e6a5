#pragma once
// Bodies of the embeddings of time steps and labels; see ops/embedding.cpp. A thread takes one value.
#include <cmath>
#include <cstdint>

#include "device/grid.h"

namespace ddad {

struct TimestepValues {
  static constexpr int kThreads = 128, kPhases = 1;
  struct Shared {};
  const float* t;
  float* out;
  int64_t samples, channels;

  GridIndex extent() const { return {static_cast<int>(blocksOf(samples * channels, kThreads)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t i = static_cast<int64_t>(block.x) * kThreads + thread, half = channels / 2;
    if (i >= samples * channels) return;
    const int64_t n = i / channels, c = i - n * channels;
    if (c >= 2 * half) {
      out[i] = 0.0f;
      return;
    }
    const int64_t place = c < half ? c : c - half;
    const double frequency = exp(-log(10000.0) * static_cast<double>(place) / static_cast<double>(half));
    const double angle = static_cast<double>(t[n]) * frequency;
    out[i] = static_cast<float>(c < half ? cos(angle) : sin(angle));
  }
};

/// out = vector + table[label].
struct LabelValues {
  static constexpr int kThreads = 128, kPhases = 1;
  struct Shared {};
  const float *vector, *labels, *table;
  float* out;
  int64_t samples, channels;

  GridIndex extent() const { return {static_cast<int>(blocksOf(samples * channels, kThreads)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t i = static_cast<int64_t>(block.x) * kThreads + thread;
    if (i >= samples * channels) return;
    const int64_t n = i / channels;
    out[i] = vector[i] + table[static_cast<int64_t>(labels[n]) * channels + i - n * channels];
  }
};

/// The gradient of the table, all of it: rows of labels that do not occur are zero.
struct LabelTableGradient {
  static constexpr int kThreads = 128, kPhases = 1;
  struct Shared {};
  const float *labels, *gradient;
  float* table;
  int64_t samples, channels, classes;

  GridIndex extent() const { return {static_cast<int>(blocksOf(classes * channels, kThreads)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t i = static_cast<int64_t>(block.x) * kThreads + thread;
    if (i >= classes * channels) return;
    const int64_t label = i / channels, c = i - label * channels;
    float sum = 0.0f;
    for (int64_t n = 0; n < samples; ++n)
      if (static_cast<int64_t>(labels[n]) == label) sum += gradient[n * channels + c];
    table[i] = sum;
  }
};

}  // namespace ddad
