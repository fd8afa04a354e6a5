#include "ops/conv/winograd.h"

#include <algorithm>

#include "ops/gemm/gemm.h"

namespace ddad {

WinogradShape winogradShape(int64_t samples, int64_t height, int64_t width, int64_t in, int64_t out) {
  WinogradShape s;
  s.samples = samples;
  s.height = height;
  s.width = width;
  s.in = in;
  s.out = out;
  s.tileRows = (height + 3) / 4;
  s.tileColumns = (width + 3) / 4;
  s.panel = gemmPanel(out);
  s.paddedOut = (out + s.panel - 1) / s.panel * s.panel;
  // Transformed inputs and products of a block stay within a quarter of a megabyte, half of a small core's second-level
  // cache.
  const int64_t fit = (int64_t{1} << 18) / (kWinogradPoints * 4 * (in + s.paddedOut));
  s.block = std::clamp<int64_t>(fit / 12 * 12, 12, 96);
  return s;
}

}  // namespace ddad
