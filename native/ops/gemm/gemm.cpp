#include "ops/gemm/gemm.h"

#include <algorithm>
#include <cstring>

namespace ddad {
namespace {

int64_t vectorLength() {
  switch (cpuIsa()) {
    case Isa::kAvx512:
      return 16;
    case Isa::kAvx2:
      return 8;
    default:
      return 4;
  }
}

}  // namespace

int64_t gemmPanel(int64_t n) {
  // AVX-512 has registers for four vectors of columns; a narrow matrix takes the narrowest panel that holds it.
  const int64_t vl = vectorLength();
  if (n <= vl) return vl;
  return vl == 16 && n > 2 * vl ? 4 * vl : 2 * vl;
}

int64_t gemmRowTile(int64_t n) {
  const int64_t vl = vectorLength(), vectors = gemmPanel(n) / vl;
  if (vl == 16) return vectors == 4 ? 6 : 12;
  return 6;
}

int64_t gemmPackedSize(int64_t rows, int64_t n) {
  const int64_t panel = gemmPanel(n);
  return (n + panel - 1) / panel * panel * rows;
}

void gemmPack(const float* b, int64_t rowStride, int64_t columnStride, int64_t rows, int64_t n, float* packed) {
  const int64_t panel = gemmPanel(n);
  for (int64_t n0 = 0; n0 < n; n0 += panel) {
    const int64_t width = std::min(panel, n - n0);
    for (int64_t r = 0; r < rows; ++r, packed += panel) {
      const float* source = b + r * rowStride + n0 * columnStride;
      if (columnStride == 1) {
        std::memcpy(packed, source, static_cast<size_t>(width) * sizeof(float));
      } else {
        for (int64_t j = 0; j < width; ++j) packed[j] = source[j * columnStride];
      }
      std::memset(packed + width, 0, static_cast<size_t>(panel - width) * sizeof(float));
    }
  }
}

}  // namespace ddad
