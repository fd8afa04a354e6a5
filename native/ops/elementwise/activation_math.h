#pragma once
// Activations for one value, written once for the CPU and CUDA.
#include "base/vecmath.h"

namespace ddad {

DDAD_HD float sigmoidOf(float x) { return 1.0f / (1.0f + fastExp(-x)); }

DDAD_HD float siluOf(float x) { return x / (1.0f + fastExp(-x)); }
/// d silu(x) / dx, given s = sigmoid(x).
DDAD_HD float siluSlope(float x, float s) { return s * (1.0f + x * (1.0f - s)); }

/// x cut to [0, 6]; NaN stays.
DDAD_HD float relu6Of(float x) {
  const float low = x < 0.0f ? 0.0f : x;
  return low > 6.0f ? 6.0f : low;
}
/// Its slope, of its value.
DDAD_HD float relu6Slope(float y) { return ((y > 0.0f) & (y < 6.0f)) ? 1.0f : 0.0f; }

}  // namespace ddad
