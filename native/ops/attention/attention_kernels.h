#pragma once
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

/// Softmax over each of `rows` rows of n values, in place.
DDAD_DECLARE_SIMD(void, softmaxRows, (float* s, int64_t rows, int64_t n))
/// d = p * (d - sum over the row of p * d) * scale, in place: the gradient of the scaled product before a softmax p.
DDAD_DECLARE_SIMD(void, softmaxGradRows, (const float* p, float* d, int64_t rows, int64_t n, float scale))

}  // namespace ddad
