#pragma once
// The sinusoidal embedding of a time step, for one value, written once for the CPU and CUDA.
#include <cstdint>
#if defined(__CUDACC__)
#include <math.h>
#else
#include <cmath>
#endif

#include "base/host_device.h"

namespace ddad {

/// Channel c of [cos(t f_0), ..., cos(t f_h-1), sin(t f_0), ...], f_i = 10000^(-i / h), h = channels / 2; an odd last
/// channel is zero. In double: it is one vector a sample.
DDAD_HD float timestepValue(double t, int64_t c, int64_t channels) {
  const int64_t half = channels / 2;
  if (c >= 2 * half) return 0.0f;
  const int64_t place = c < half ? c : c - half;
  const double angle = t * exp(-log(10000.0) * static_cast<double>(place) / static_cast<double>(half));
  return static_cast<float>(c < half ? cos(angle) : sin(angle));
}

}  // namespace ddad
