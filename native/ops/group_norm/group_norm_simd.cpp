#include "device/simd.h"
#include "ops/elementwise/activation_math.h"
#include "ops/group_norm/group_norm_kernels.h"

namespace ddad {
namespace DDAD_ISA {

void normSums(const float* x, int64_t rows, int64_t channels, const float* k, float* s1, float* s2) {
  for (int64_t c = 0; c < channels; ++c) s1[c] = s2[c] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float d = row[c] - k[c];
      s1[c] += d;
      s2[c] += d * d;
    }
  }
}

void normApply(const float* x, int64_t rows, int64_t channels, const float* a, const float* b, float* y,
               int64_t yStride, int silu) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * channels;
    float* to = y + r * yStride;
    if (silu)
      for (int64_t c = 0; c < channels; ++c) {
        const float z = a[c] * row[c] + b[c];
        to[c] = z * sigmoidOf(z);
      }
    else
      for (int64_t c = 0; c < channels; ++c) to[c] = a[c] * row[c] + b[c];
  }
}

void normGradSums(const float* x, const float* dy, int64_t dyStride, int64_t rows, int64_t channels, const float* a,
                  const float* b, const float* h, const float* m, int silu, float* s1, float* s2) {
  for (int64_t c = 0; c < channels; ++c) s1[c] = s2[c] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * channels;
    const float* g = dy + r * dyStride;
    if (silu)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const float z = a[c] * row[c] + b[c];
        const float dz = g[c] * siluSlope(z, sigmoidOf(z));
        s1[c] += dz;
        s2[c] += dz * (h[c] * row[c] + m[c]);
      }
    else
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        s1[c] += g[c];
        s2[c] += g[c] * (h[c] * row[c] + m[c]);
      }
  }
}

void normGradApply(const float* x, const float* dy, int64_t dyStride, int64_t rows, int64_t channels, const float* a,
                   const float* b, int silu, const float* p, const float* q, const float* r, float* dx,
                   int accumulate) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x + i * channels;
    const float* g = dy + i * dyStride;
    float* to = dx + i * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      float dz = g[c];
      if (silu) {
        const float z = a[c] * row[c] + b[c];
        dz *= siluSlope(z, sigmoidOf(z));
      }
      const float d = p[c] * dz + q[c] * row[c] + r[c];
      to[c] = accumulate ? to[c] + d : d;
    }
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
