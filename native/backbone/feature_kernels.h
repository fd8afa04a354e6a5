#pragma once
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

/// Sum of (a - b)^2 over n values; where `gradient` is not null it becomes (a - b) * scale.
DDAD_DECLARE_SIMD(double, squaredDistance, (const float* a, const float* b, int64_t n, float scale, float* gradient))

}  // namespace ddad
