#include "device/simd.h"
#include "ops/depthwise/depthwise_kernels.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

/// Calls f(pixel, tap) for every tap of output x that lies inside the image; `pixel` counts the image's pixels.
template <class F>
inline __attribute__((always_inline)) void forEachTap(const DepthwiseRow& row, int64_t x, F f) {
  for (int ky = 0; ky < row.kernel; ++ky) {
    const int64_t iy = row.y * row.stride + ky - row.pad;
    if (iy < 0 || iy >= row.inHeight) continue;
    for (int kx = 0; kx < row.kernel; ++kx) {
      const int64_t ix = x * row.stride + kx - row.pad;
      if (ix >= 0 && ix < row.inWidth) f(iy * row.inWidth + ix, ky * row.kernel + kx);
    }
  }
}

/// Channels [c, c + V vectors) of output pixel x: the sums stay in registers over all taps.
template <int V>
inline __attribute__((always_inline)) void forwardVectors(const DepthwiseRow& row, int64_t x, int64_t c,
                                                          const float* image, const float* weights, const float* bias,
                                                          float* to, int relu6) {
  const int64_t channels = row.channels;
  const Vec zero = {}, six = zero + 6.0f;
  Vec sums[V];
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) sums[j] = bias ? load(bias + c + j * kVl) : zero;
  forEachTap(row, x, [&](int64_t pixel, int64_t tap) {
    const float *from = image + pixel * channels + c, *w = weights + tap * channels + c;
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sums[j] += load(from + j * kVl) * load(w + j * kVl);
  });
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    Vec v = sums[j];
    if (relu6) {
      v = v < zero ? zero : v;  // NaN compares false and stays
      v = v > six ? six : v;
    }
    store(to + c + j * kVl, v);
  }
}

}  // namespace

void depthwiseForwardRow(const DepthwiseRow& row, const float* image, const float* weights, const float* bias,
                         float* out, int relu6) {
  const int64_t channels = row.channels;
  for (int64_t x = 0; x < row.outWidth; ++x) {
    float* to = out + x * channels;
    int64_t c = 0;
    for (; c + 4 * kVl <= channels; c += 4 * kVl) forwardVectors<4>(row, x, c, image, weights, bias, to, relu6);
    for (; c + kVl <= channels; c += kVl) forwardVectors<1>(row, x, c, image, weights, bias, to, relu6);
    if (c < channels && channels >= kVl) {  // the last vector overlaps the one before it
      forwardVectors<1>(row, x, channels - kVl, image, weights, bias, to, relu6);
      continue;
    }
    for (; c < channels; ++c) {
      float sum = bias ? bias[c] : 0.0f;
      forEachTap(row, x,
                 [&](int64_t pixel, int64_t tap) { sum += image[pixel * channels + c] * weights[tap * channels + c]; });
      if (relu6) {
        sum = sum < 0.0f ? 0.0f : sum;
        sum = sum > 6.0f ? 6.0f : sum;
      }
      to[c] = sum;
    }
  }
}

void depthwiseDataRow(const DepthwiseRow& row, const float* weights, const float* outGrad, float* imageGrad) {
  const int64_t channels = row.channels;
  for (int64_t x = 0; x < row.outWidth; ++x)
    forEachTap(row, x, [=](int64_t pixel, int64_t tap) {
      float* to = imageGrad + pixel * channels;
      const float* w = weights + tap * channels;
      const float* g = outGrad + x * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += g[c] * w[c];
    });
}

void depthwiseWeightRow(const DepthwiseRow& row, const float* image, const float* outGrad, float* weightGrad) {
  const int64_t channels = row.channels;
  for (int64_t x = 0; x < row.outWidth; ++x)
    forEachTap(row, x, [=](int64_t pixel, int64_t tap) {
      const float* from = image + pixel * channels;
      const float* g = outGrad + x * channels;
      float* to = weightGrad + tap * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c] * g[c];
    });
}

}  // namespace DDAD_ISA
}  // namespace ddad
