#include "device/simd.h"
#include "ops/depthwise_kernels.h"

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

}  // namespace

void depthwiseForwardRow(const DepthwiseRow& row, const float* image, const float* weights, const float* bias,
                         float* out, int relu6) {
  const int64_t channels = row.channels;
  for (int64_t x = 0; x < row.outWidth; ++x) {
    float* to = out + x * channels;
    for (int64_t c = 0; c < channels; ++c) to[c] = bias ? bias[c] : 0.0f;
    forEachTap(row, x, [=](int64_t pixel, int64_t tap) {
      const float* from = image + pixel * channels;
      const float* w = weights + tap * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c] * w[c];
    });
    if (relu6)
      for (int64_t c = 0; c < channels; ++c) {
        float v = to[c];
        v = v < 0.0f ? 0.0f : v;
        to[c] = v > 6.0f ? 6.0f : v;
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
