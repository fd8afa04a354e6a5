#pragma once
// Bodies of the depthwise convolution; see ops/depthwise/depthwise.cpp. Weights are [channels, kernel, kernel].
#include <cstdint>

#include "ops/elementwise/elementwise_grid.h"

namespace ddad {

struct DepthwisePlace {
  int64_t samples, inHeight, inWidth, outHeight, outWidth, channels;
  int kernel, stride, pad;

  DDAD_HD_MEMBER int64_t in(int64_t n, int64_t y, int64_t x, int64_t c) const {
    return ((n * inHeight + y) * inWidth + x) * channels + c;
  }
  DDAD_HD_MEMBER int64_t out(int64_t n, int64_t y, int64_t x, int64_t c) const {
    return ((n * outHeight + y) * outWidth + x) * channels + c;
  }
};

/// sums = the convolution with bias, out = f(sums); `sums` may be null, or `out`. A thread takes one value.
struct DepthwiseForward {
  DepthwisePlace p;
  const float *from, *weights, *bias;  // bias may be null
  float *sums, *out;
  Activation activation;

  DDAD_HD_MEMBER int64_t items() const { return p.samples * p.outHeight * p.outWidth * p.channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t pixel = i / p.channels, c = i - pixel * p.channels, row = pixel / p.outWidth;
    const int64_t n = row / p.outHeight, y = row - n * p.outHeight, x = pixel - row * p.outWidth;
    float sum = bias != nullptr ? bias[c] : 0.0f;
    for (int ky = 0; ky < p.kernel; ++ky) {
      const int64_t iy = y * p.stride + ky - p.pad;
      if (iy < 0 || iy >= p.inHeight) continue;
      for (int kx = 0; kx < p.kernel; ++kx) {
        const int64_t ix = x * p.stride + kx - p.pad;
        if (ix >= 0 && ix < p.inWidth) sum += from[p.in(n, iy, ix, c)] * weights[(c * p.kernel + ky) * p.kernel + kx];
      }
    }
    if (sums != nullptr) sums[i] = sum;
    out[i] = activated(activation, sum);
  }
};

/// The gradient by the input: each value gathers from the outputs that it took part in.
struct DepthwiseDataGradient {
  DepthwisePlace p;
  const float *gradient, *weights;
  float* to;
  bool accumulate;

  DDAD_HD_MEMBER int64_t items() const { return p.samples * p.inHeight * p.inWidth * p.channels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t pixel = i / p.channels, c = i - pixel * p.channels, row = pixel / p.inWidth;
    const int64_t n = row / p.inHeight, y = row - n * p.inHeight, x = pixel - row * p.inWidth;
    float sum = accumulate ? to[i] : 0.0f;
    for (int ky = 0; ky < p.kernel; ++ky) {
      const int64_t oy = y + p.pad - ky;
      if (oy < 0 || oy % p.stride != 0 || oy / p.stride >= p.outHeight) continue;
      for (int kx = 0; kx < p.kernel; ++kx) {
        const int64_t ox = x + p.pad - kx;
        if (ox >= 0 && ox % p.stride == 0 && ox / p.stride < p.outWidth)
          sum += gradient[p.out(n, oy / p.stride, ox / p.stride, c)] * weights[(c * p.kernel + ky) * p.kernel + kx];
      }
    }
    to[i] = sum;
  }
};

/// The gradient of a weight a thread, over all pixels: the backbone is not trained, so that this is for tests.
struct DepthwiseWeightGradient {
  DepthwisePlace p;
  const float *from, *gradient;
  float* to;

  DDAD_HD_MEMBER int64_t items() const { return p.channels * p.kernel * p.kernel; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t taps = int64_t{p.kernel} * p.kernel;
    const int64_t tap = i / p.channels, c = i - tap * p.channels, ky = tap / p.kernel, kx = tap - ky * p.kernel;
    double sum = 0.0;
    for (int64_t n = 0; n < p.samples; ++n)
      for (int64_t y = 0; y < p.outHeight; ++y) {
        const int64_t iy = y * p.stride + ky - p.pad;
        if (iy < 0 || iy >= p.inHeight) continue;
        for (int64_t x = 0; x < p.outWidth; ++x) {
          const int64_t ix = x * p.stride + kx - p.pad;
          if (ix >= 0 && ix < p.inWidth)
            sum += static_cast<double>(from[p.in(n, iy, ix, c)]) * static_cast<double>(gradient[p.out(n, y, x, c)]);
        }
      }
    to[c * taps + tap] = static_cast<float>(sum);
  }
};

}  // namespace ddad
