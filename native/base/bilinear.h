#pragma once
// Bilinear resizing with corners not aligned, along one axis; written once for the CPU and CUDA.
#include <cstdint>

#include "base/host_device.h"

namespace ddad {

/// Where the centre of an output position lies among the input positions.
struct BilinearPlace {
  int64_t low, high;
  float fraction;  // weight of high
};

/// Of position i of n outputs among `in` inputs; beyond the edges the edge itself.
DDAD_HD BilinearPlace bilinearPlace(int64_t i, int64_t in, int64_t n) {
  const double centre = (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(n) - 0.5;
  const double at = centre > 0.0 ? centre : 0.0;
  const int64_t floor = static_cast<int64_t>(at), low = floor < in - 1 ? floor : in - 1;
  return {low, low + 1 < in ? low + 1 : in - 1, static_cast<float>(at - static_cast<double>(low))};
}

/// Between the values at low and high of both axes: a at (y.low, x.low), b at (y.low, x.high), c at (y.high, x.low), d.
DDAD_HD float bilinearValue(float a, float b, float c, float d, float x, float y) {
  const float top = a + (b - a) * x, bottom = c + (d - c) * x;
  return top + (bottom - top) * y;
}

}  // namespace ddad
