#pragma once
// The two matrix products that every heavy op of the CPU is made of.
//   gemmRows:  C[m, n] = sum over taps and k of A[tap, m][k] * B[tap, k][n], each row of A found through a pointer. One
//              tap is a plain product; nine taps are a 3x3 convolution on NHWC data without im2col (padding is a
//              pointer to zeros).
//   gemmOuter: C[m, n] (+)= sum over r of A[r][m] * B[r][n], the product of a weight gradient.
#include <cstdint>

#include "base/host_device.h"
#include "device/dispatch.h"

namespace ddad {

/// Where the rows of A lie. Row m of tap (ky, kx) is pixel (oy * stride + ky - pad, ox * stride + kx - pad) of sample
/// i, where m counts the output pixels (i, oy, ox); outside the image it is `zeros`. A plain matrix is a 1x1 image row.
struct GemmRowSource {
  const float* data;
  const float* zeros;  // at least `k` zeros
  int64_t rowStride;   // floats from one pixel to the next
  int height, width;   // of the source
  int outHeight, outWidth;
  int kernel, stride, pad;
  int64_t k;  // floats used of each row
};

struct GemmEpilogue {
  const float* bias;      // [n] or null
  const float* residual;  // added where not null; may be the output itself
  int64_t residualStride;
  float scale;  // of the product, before bias
  int relu6;
};

/// Panel width in floats of packed B for `n` columns: gemmPackedSize and gemmPack use it.
int64_t gemmPanel(int64_t n);
/// Floats of packed B with `rows` = taps * k rows and n columns.
int64_t gemmPackedSize(int64_t rows, int64_t n);
/// Packs B, element (r, c) at b[r * rowStride + c * columnStride], into panels, columns padded with zeros.
void gemmPack(const float* b, int64_t rowStride, int64_t columnStride, int64_t rows, int64_t n, float* packed);
/// Rows handled by one call of the inner kernel for n columns; chunks of a parallel loop should be multiples of it.
int64_t gemmRowTile(int64_t n);

DDAD_DECLARE_SIMD(void, gemmRows,
                  (const GemmRowSource& a, int64_t m0, int64_t m1, const float* packedB, int64_t n, float* c,
                   int64_t cStride, const GemmEpilogue& epilogue))
DDAD_DECLARE_SIMD(void, gemmOuter,
                  (const float* const* aRows, int64_t aOffset, int64_t m, const float* b, int64_t bStride, int64_t n,
                   int64_t rows, float* c, int64_t cStride, int accumulate))

/// A plain row-major matrix as a row source.
DDAD_HD GemmRowSource matrixRows(const float* data, int64_t rowStride, int64_t rows, int64_t k) {
  return {data, nullptr, rowStride, 1, static_cast<int>(rows), 1, static_cast<int>(rows), 1, 1, 0, k};
}

}  // namespace ddad
