#pragma once
// Loops over rows of channels (NHWC) that several ops share.
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

/// y[i] += x[i].
DDAD_DECLARE_SIMD(void, addInto, (float* y, const float* x, int64_t n))
/// sums[c] = sum over rows of x[r * stride + c], float within the call: keep rows to a few hundred.
DDAD_DECLARE_SIMD(void, columnSums, (const float* x, int64_t rows, int64_t stride, int64_t channels, float* sums))
/// The smallest of `start` and x[0 .. n); NaN never is.
DDAD_DECLARE_SIMD(float, smallestOf, (const float* x, int64_t n, float start))
/// y = x * sigmoid(x); y may be x.
DDAD_DECLARE_SIMD(void, siluForward, (float* y, const float* x, int64_t n))
/// dx (+)= dy * d silu(x) / dx.
DDAD_DECLARE_SIMD(void, siluBackward, (float* dx, const float* x, const float* dy, int64_t n, int accumulate))
/// y = x cut to [0, 6]; y may be x.
DDAD_DECLARE_SIMD(void, relu6Forward, (float* y, const float* x, int64_t n))
/// dx = dy where 0 < y < 6, 0 elsewhere; y is what ReLU6 gave.
DDAD_DECLARE_SIMD(void, relu6Gradient, (float* dx, const float* y, const float* dy, int64_t n))
/// y[c] = sum over four pixels * scale: 2x2 pooling, or the gradient of nearest up-sampling (scale 1).
DDAD_DECLARE_SIMD(void, sumFour,
                  (float* y, const float* x00, const float* x01, const float* x10, const float* x11, int64_t n,
                   float scale, int accumulate))
/// y[i] (+)= x[i] * scale.
DDAD_DECLARE_SIMD(void, scaleInto, (float* y, const float* x, int64_t n, float scale, int accumulate))
/// y[i] = a[i] + (b[i] - a[i]) * share.
DDAD_DECLARE_SIMD(void, mixRows, (float* y, const float* a, const float* b, int64_t n, float share))

/// Rows summed in float before the partial sums are added in double.
constexpr int64_t kSumRows = 256;

/// out[c] = sum over all rows of x[r * channels + c]; `partials` needs channels * ceil(rows / kSumRows) floats.
void sumColumns(int threads, const float* x, int64_t rows, int64_t channels, float* partials, float* out);

}  // namespace ddad
