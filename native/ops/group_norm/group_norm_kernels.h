#pragma once
// Inner loops of group norm. Per channel and sample everything around the norm is affine, z = a x + b, so forward is
// one multiply-add and (optionally) SiLU an element, and backward needs two sums a channel.
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

/// s1[c] = sum over rows of (x - k[c]), s2[c] = sum of (x - k[c])^2; k near the mean keeps the digits.
DDAD_DECLARE_SIMD(void, normSums,
                  (const float* x, int64_t rows, int64_t channels, const float* k, float* s1, float* s2))
/// y[r * yStride + c] = f(a[c] x + b[c]), f = SiLU or identity.
DDAD_DECLARE_SIMD(void, normApply,
                  (const float* x, int64_t rows, int64_t channels, const float* a, const float* b, float* y,
                   int64_t yStride, int silu))
/// With z = a x + b, dz = dy f'(z), xhat = h x + m: s1[c] = sum dz, s2[c] = sum dz xhat.
DDAD_DECLARE_SIMD(void, normGradSums,
                  (const float* x, const float* dy, int64_t dyStride, int64_t rows, int64_t channels, const float* a,
                   const float* b, const float* h, const float* m, int silu, float* s1, float* s2))
/// dx (+)= p[c] dz + q[c] x + r[c].
DDAD_DECLARE_SIMD(void, normGradApply,
                  (const float* x, const float* dy, int64_t dyStride, int64_t rows, int64_t channels, const float* a,
                   const float* b, int silu, const float* p, const float* q, const float* r, float* dx, int accumulate))

}  // namespace ddad
