#pragma once
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

/// difference[i] = x[i] - mean[i], product = precision difference; returns their inner product, the squared distance.
DDAD_DECLARE_SIMD(double, squaredMahalanobis,
                  (const float* x, const float* mean, const float* precision, int64_t d, float* difference,
                   float* product))

/// Row i of the lower triangle, for i < d: moments[i (i + 1) / 2 + j] += a[i] b[j], j <= i.
DDAD_DECLARE_SIMD(void, addOuterProduct,
                  (const double* a, const double* b, int64_t first, int64_t last, double* moments))

}  // namespace ddad
