#pragma once
// Inner loops of squeeze-excite over rows of channels (NHWC) of one sample.
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

/// y[o] = bias[o] + sum over i of weight[o, i] x[i].
DDAD_DECLARE_SIMD(void, denseLayer,
                  (float* y, const float* x, const float* weight, const float* bias, int64_t out, int64_t in))
/// y = 1 / (1 + e^-x); y may be x.
DDAD_DECLARE_SIMD(void, sigmoidForward, (float* y, const float* x, int64_t n))
/// y[r, c] = x[r, c] gate[c]; y may be x.
DDAD_DECLARE_SIMD(void, gateRows, (float* y, const float* x, const float* gate, int64_t rows, int64_t channels))
/// sums[c] = sum over rows of x[r, c] dy[r, c], float within the call: keep rows to a few hundred.
DDAD_DECLARE_SIMD(void, productSums, (float* sums, const float* x, const float* dy, int64_t rows, int64_t channels))
/// dx[r, c] (+)= dy[r, c] gate[c] + shift[c].
DDAD_DECLARE_SIMD(void, gateRowsBackward,
                  (float* dx, const float* dy, const float* gate, const float* shift, int64_t rows, int64_t channels,
                   int accumulate))

}  // namespace ddad
