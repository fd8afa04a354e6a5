#pragma once
// Bodies of the embeddings of time steps and labels; see ops/embedding/embedding.cpp. A thread takes one value.
#include <cstdint>

#include "device/grid.h"
#include "ops/embedding/embedding_math.h"

namespace ddad {

struct TimestepValues {
  const float* t;
  float* out;
  int64_t samples, channels;

  DDAD_HD_MEMBER int64_t items() const { return samples * channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t n = i / channels;
    out[i] = timestepValue(static_cast<double>(t[n]), i - n * channels, channels);
  }
};

/// out = vector + table[label].
struct LabelValues {
  const float *vector, *labels, *table;
  float* out;
  int64_t samples, channels;

  DDAD_HD_MEMBER int64_t items() const { return samples * channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t n = i / channels;
    out[i] = vector[i] + table[static_cast<int64_t>(labels[n]) * channels + i - n * channels];
  }
};

/// The gradient of the table, all of it: rows of labels that do not occur are zero.
struct LabelTableGradient {
  const float *labels, *gradient;
  float* table;
  int64_t samples, channels, classes;

  DDAD_HD_MEMBER int64_t items() const { return classes * channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t label = i / channels, c = i - label * channels;
    float sum = 0.0f;
    for (int64_t n = 0; n < samples; ++n)
      if (static_cast<int64_t>(labels[n]) == label) sum += gradient[n * channels + c];
    table[i] = sum;
  }
};

}  // namespace ddad
