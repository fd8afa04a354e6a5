#include <cstdint>

#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_tile.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

constexpr int kMaxTaps = 49;

inline __attribute__((always_inline)) Vec finish(Vec v, float scale, Vec bias, int relu6) {
  v = v * scale + bias;
  if (relu6) {
    const Vec zero = {}, six = zero + 6.0f;
    v = v < zero ? zero : v;  // NaN compares false and stays
    v = v > six ? six : v;
  }
  return v;
}

/// W columns of `rows` rows of scaled sums, with what is added to them.
template <int W>
inline __attribute__((always_inline)) void finishColumns(const float* sums, int rows, int64_t sumStride,
                                                         const float* bias, const float* residual,
                                                         int64_t residualStride, int relu6, float* c, int64_t cStride) {
  typedef float Part __attribute__((vector_size(W * 4), aligned(4), may_alias));
  const Part zero = {}, six = zero + 6.0f;
  const Part added = bias ? *(const Part*)bias : zero;
  for (int m = 0; m < rows; ++m) {
    Part v = *(const Part*)(sums + m * sumStride) + added;
    if (residual) v += *(const Part*)(residual + m * residualStride);
    if (relu6) {
      v = v < zero ? zero : v;  // NaN compares false and stays
      v = v > six ? six : v;
    }
    *(Part*)(c + m * cStride) = v;
  }
}

/// `rows` rows of scaled sums, of which only `columns` are wanted. Apart from the tiles: a copy of it in each of them
/// took most of the time that this file compiles.
__attribute__((noinline)) void finishRows(const float* sums, int rows, int64_t sumStride, int64_t columns,
                                          const float* bias, const float* residual, int64_t residualStride, int relu6,
                                          float* c, int64_t cStride) {
  int64_t j = 0;
#define DDAD_FINISH(W)                                                                                      \
  finishColumns<W>(sums + j, rows, sumStride, bias ? bias + j : nullptr, residual ? residual + j : nullptr, \
                   residualStride, relu6, c + j, cStride);                                                  \
  j += W
  while (j + kVl <= columns) {
    DDAD_FINISH(kVl);
  }
#if DDAD_VL > 8
  if (j + 8 <= columns) {
    DDAD_FINISH(8);
  }
#endif
#if DDAD_VL > 4
  if (j + 4 <= columns) {
    DDAD_FINISH(4);
  }
#endif
  if (j + 2 <= columns) {
    DDAD_FINISH(2);
  }
  if (j < columns) {
    DDAD_FINISH(1);
  }
#undef DDAD_FINISH
}

/// MR rows of NV whole vectors; B is packed in panels of PV.
template <int MR, int NV, int PV>
void tile(const float* const* rows, int taps, int64_t k, const float* b, float* c, int64_t cStride, const float* bias,
          const float* residual, int64_t residualStride, float scale, int relu6) {
  Vec acc[MR][NV];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[m][j] = Vec{};
  innerProduct<MR, NV, PV>(rows, taps, k, b, acc);
  const Vec zero = {};
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      Vec extra = bias ? load(bias + j * kVl) : zero;
      if (residual) extra += load(residual + m * residualStride + j * kVl);
      store(c + m * cStride + j * kVl, finish(acc[m][j], scale, extra, relu6));
    }
}

using TileFn = void (*)(const float* const*, int, int64_t, const float*, float*, int64_t, const float*, const float*,
                        int64_t, float, int);

template <int NV, int PV>
struct Tiles {
  static constexpr TileFn six[] = {nullptr,         tile<1, NV, PV>, tile<2, NV, PV>, tile<3, NV, PV>,
                                   tile<4, NV, PV>, tile<5, NV, PV>, tile<6, NV, PV>};
};
template <int NV, int PV>
struct TallTiles {
  static constexpr TileFn twelve[] = {nullptr,         tile<1, NV, PV>, tile<2, NV, PV>,  tile<3, NV, PV>,
                                      tile<4, NV, PV>, tile<5, NV, PV>, tile<6, NV, PV>,  tile<7, NV, PV>,
                                      tile<8, NV, PV>, tile<9, NV, PV>, tile<10, NV, PV>, tile<11, NV, PV>,
                                      tile<12, NV, PV>};
};

/// The tiles of a panel of `panel` vectors that begin with `used` of them, by their number of rows.
const TileFn* tilesOf(int64_t panel, int64_t used) {
#if DDAD_VL == 16
  if (panel == 1) return TallTiles<1, 1>::twelve;
  if (panel == 2) return used == 1 ? TallTiles<1, 2>::twelve : TallTiles<2, 2>::twelve;
  constexpr const TileFn* kWide[] = {Tiles<1, 4>::six, Tiles<2, 4>::six, Tiles<3, 4>::six, Tiles<4, 4>::six};
  return kWide[used - 1];
#else
  if (panel == 1) return Tiles<1, 1>::six;
  return used == 1 ? Tiles<1, 2>::six : Tiles<2, 2>::six;
#endif
}

// Pointers to the `count` rows from output pixel m on, tap by tap: rows[tap * kMaxRows + i].
void gatherRows(const GemmRowSource& a, int64_t m, int count, const float** rows) {
  const int64_t plane = static_cast<int64_t>(a.outHeight) * a.outWidth;
  int64_t sample = m / plane;
  const int64_t inside = m - sample * plane;
  int oy = static_cast<int>(inside / a.outWidth), ox = static_cast<int>(inside - static_cast<int64_t>(oy) * a.outWidth);
  for (int i = 0; i < count; ++i) {
    const int y0 = oy * a.stride - a.pad, x0 = ox * a.stride - a.pad;
    const float* base = a.data + ((sample * a.height + y0) * a.width + x0) * a.rowStride;
    int tap = 0;
    for (int ky = 0; ky < a.kernel; ++ky) {
      const bool rowInside = static_cast<unsigned>(y0 + ky) < static_cast<unsigned>(a.height);
      for (int kx = 0; kx < a.kernel; ++kx, ++tap) {
        const bool in = rowInside && static_cast<unsigned>(x0 + kx) < static_cast<unsigned>(a.width);
        rows[tap * kMaxRows + i] = in ? base + (static_cast<int64_t>(ky) * a.width + kx) * a.rowStride : a.zeros;
      }
    }
    if (++ox == a.outWidth) {
      ox = 0;
      if (++oy == a.outHeight) {
        oy = 0;
        ++sample;
      }
    }
  }
}

// C tile (+)= A rows^T * B for NV full vectors of columns.
template <int MR, int NV>
void outerTile(const float* const* aRows, int64_t aOffset, const float* b, int64_t bStride, int64_t rows, float* c,
               int64_t cStride, int accumulate) {
  Vec acc[MR][NV];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[m][j] = Vec{};
  for (int64_t r = 0; r < rows; ++r) {
    const float* a = aRows[r] + aOffset;
    Vec bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) bv[j] = load(b + r * bStride + j * kVl);
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) {
      const float value = a[m];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[m][j] += value * bv[j];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      float* out = c + m * cStride + j * kVl;
      store(out, accumulate ? load(out) + acc[m][j] : acc[m][j]);
    }
}

// The same for fewer columns than a vector has; correct, not fast: callers that care pad B.
void outerTail(const float* const* aRows, int64_t aOffset, int m, const float* b, int64_t bStride, int64_t columns,
               int64_t rows, float* c, int64_t cStride, int accumulate) {
  for (int i = 0; i < m; ++i) {
    float sum[kVl] = {};
    for (int64_t r = 0; r < rows; ++r) {
      const float value = aRows[r][aOffset + i];
      for (int64_t j = 0; j < columns; ++j) sum[j] += value * b[r * bStride + j];
    }
    for (int64_t j = 0; j < columns; ++j) c[i * cStride + j] = accumulate ? c[i * cStride + j] + sum[j] : sum[j];
  }
}

using OuterFn = void (*)(const float* const*, int64_t, const float*, int64_t, int64_t, float*, int64_t, int);

#if DDAD_VL == 16
constexpr int kOuterRows = 8;
constexpr OuterFn kOuter1[] = {nullptr,         outerTile<1, 1>, outerTile<2, 1>, outerTile<3, 1>, outerTile<4, 1>,
                               outerTile<5, 1>, outerTile<6, 1>, outerTile<7, 1>, outerTile<8, 1>};
constexpr OuterFn kOuter2[] = {nullptr,         outerTile<1, 2>, outerTile<2, 2>, outerTile<3, 2>, outerTile<4, 2>,
                               outerTile<5, 2>, outerTile<6, 2>, outerTile<7, 2>, outerTile<8, 2>};
#else
constexpr int kOuterRows = 4;
constexpr OuterFn kOuter1[] = {nullptr, outerTile<1, 1>, outerTile<2, 1>, outerTile<3, 1>, outerTile<4, 1>};
constexpr OuterFn kOuter2[] = {nullptr, outerTile<1, 2>, outerTile<2, 2>, outerTile<3, 2>, outerTile<4, 2>};
#endif

}  // namespace

void gemmRows(const GemmRowSource& a, int64_t m0, int64_t m1, const float* packedB, int64_t n, float* c,
              int64_t cStride, const GemmEpilogue& e) {
  const int taps = a.kernel * a.kernel;
  int vectors = n <= kVl ? 1 : 2, tileRows = 6;
#if DDAD_VL == 16
  tileRows = 12;
  if (n > 2 * kVl) {
    vectors = 4;
    tileRows = 6;
  }
#endif
  const int64_t panel = static_cast<int64_t>(vectors) * kVl;
  const float* rows[kMaxTaps * kMaxRows];
  alignas(64) float sums[kMaxRows * 4 * kVl];  // of a last panel that is not full
  for (int64_t m = m0; m < m1; m += tileRows) {
    const int count = static_cast<int>(m1 - m < tileRows ? m1 - m : tileRows);
    gatherRows(a, m, count, rows);
    for (int64_t n0 = 0; n0 < n; n0 += panel) {
      const int64_t columns = n - n0 < panel ? n - n0 : panel;
      const float* bias = e.bias ? e.bias + n0 : nullptr;
      const float* residual = e.residual ? e.residual + m * e.residualStride + n0 : nullptr;
      const float* panelB = packedB + n0 * taps * a.k;
      float* to = c + m * cStride + n0;
      const int64_t used = (columns + kVl - 1) / kVl, width = used * kVl;
      const TileFn run = tilesOf(vectors, used)[count];
      // A panel that is not full never goes the first way, even where its vectors are: there scale and bias may become
      // one rounding, and a column's value would depend on it.
      if (columns == panel) {
        run(rows, taps, a.k, panelB, to, cStride, bias, residual, e.residualStride, e.scale, e.relu6);
      } else {
        run(rows, taps, a.k, panelB, sums, width, nullptr, nullptr, 0, e.scale, 0);
        finishRows(sums, count, width, columns, bias, residual, e.residualStride, e.relu6, to, cStride);
      }
    }
  }
}

void gemmOuter(const float* const* aRows, int64_t aOffset, int64_t m, const float* b, int64_t bStride, int64_t n,
               int64_t rows, float* c, int64_t cStride, int accumulate) {
  for (int64_t m0 = 0; m0 < m; m0 += kOuterRows) {
    const int count = static_cast<int>(m - m0 < kOuterRows ? m - m0 : kOuterRows);
    int64_t n0 = 0;
    for (; n0 + 2 * kVl <= n; n0 += 2 * kVl)
      kOuter2[count](aRows, aOffset + m0, b + n0, bStride, rows, c + m0 * cStride + n0, cStride, accumulate);
    for (; n0 + kVl <= n; n0 += kVl)
      kOuter1[count](aRows, aOffset + m0, b + n0, bStride, rows, c + m0 * cStride + n0, cStride, accumulate);
    if (n0 < n)
      outerTail(aRows, aOffset + m0, count, b + n0, bStride, n - n0, rows, c + m0 * cStride + n0, cStride, accumulate);
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
