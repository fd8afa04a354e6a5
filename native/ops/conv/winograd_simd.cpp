#include "ops/conv/winograd_tile.h"
#include "ops/gemm/gemm_tile.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

// A^T m: six points to four outputs.
DDAD_HD void outputValues(Vec m0, Vec m1, Vec m2, Vec m3, Vec m4, Vec m5, Vec* y0, Vec* y1, Vec* y2, Vec* y3) {
  const Vec s1 = m1 + m2, d1 = m1 - m2, s2 = m3 + m4, d2 = m3 - m4;
  *y0 = m0 + s1 + s2;
  *y1 = d1 + 2.0f * d2;
  *y2 = s1 + 4.0f * s2;
  *y3 = d1 + 8.0f * d2 + m5;
}

// Adds bias and residual on the way out; m[point][tile][paddedOut].
void transformOutput(const WinogradShape& s, int64_t first, int64_t count, const float* m, const float* bias,
                     const float* residual, float* y) {
  const int64_t pointStride = s.block * s.paddedOut;
  for (int64_t i = 0; i < count; ++i) {
    const TilePlace place = placeOf(s, first + i);
    const int rows = static_cast<int>(s.height - place.y < 4 ? s.height - place.y : 4);
    const int columns = static_cast<int>(s.width - place.x < 4 ? s.width - place.x : 4);
    const int64_t origin = ((place.sample * s.height + place.y) * s.width + place.x) * s.out;
    for (int64_t c = 0; c < s.out; c += kVl) {
      const int64_t channels = s.out - c;
      const float* from = m + i * s.paddedOut + c;
      Vec t[4][6];
      for (int k = 0; k < 6; ++k) {
        const float* p = from + k * pointStride;
        const int64_t six = 6 * pointStride;
        outputValues(load(p), load(p + six), load(p + 2 * six), load(p + 3 * six), load(p + 4 * six), load(p + 5 * six),
                     &t[0][k], &t[1][k], &t[2][k], &t[3][k]);
      }
      const Vec b = bias ? loadSome(bias + c, channels) : Vec{};
      for (int r = 0; r < rows; ++r) {
        Vec out[4];
        outputValues(t[r][0], t[r][1], t[r][2], t[r][3], t[r][4], t[r][5], &out[0], &out[1], &out[2], &out[3]);
        for (int k = 0; k < columns; ++k) {
          const int64_t at = origin + (r * s.width + k) * s.out + c;
          Vec value = out[k] + b;
          if (residual) value += loadSome(residual + at, channels);
          storeSome(y + at, value, channels);
        }
      }
    }
  }
}

template <int MR, int NV>
void product(const float* v, int64_t vStride, int64_t k, const float* weights, float* m, int64_t mStride) {
  const float* rows[kMaxRows];
  for (int i = 0; i < MR; ++i) rows[i] = v + i * vStride;
  Vec acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = Vec{};
  innerProduct<MR, NV>(rows, 1, k, weights, acc);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(m + i * mStride + j * kVl, acc[i][j]);
}

// m = v * weights for one point; `rows` is a multiple of every row tile.
template <int MR, int NV>
void products(const WinogradShape& s, int64_t rows, const float* v, const float* weights, float* m) {
  for (int64_t n = 0; n < s.paddedOut; n += NV * kVl)
    for (int64_t r = 0; r < rows; r += MR)
      product<MR, NV>(v + r * s.in, s.in, s.in, weights + n * s.in, m + r * s.paddedOut + n, s.paddedOut);
}

}  // namespace

void winogradBlock(const WinogradShape& s, int64_t blockIndex, const float* x, const float* weights, const float* bias,
                   const float* residual, float* y, float* scratch) {
  const int64_t first = blockIndex * s.block;
  const int64_t count = s.tiles() - first < s.block ? s.tiles() - first : s.block;
  float* v = scratch;
  float* m = scratch + kWinogradPoints * s.block * s.in;
  transformInput(s, first, count, x, v);
  // rows past `count` hold what an earlier block left: computed along, never read
  const int64_t rows = (count + 11) / 12 * 12;
  for (int64_t p = 0; p < kWinogradPoints; ++p) {
    const float* vp = v + p * s.block * s.in;
    const float* wp = weights + p * s.in * s.paddedOut;
    float* mp = m + p * s.block * s.paddedOut;
#if DDAD_VL == 16
    if (s.panel == 4 * kVl)
      products<6, 4>(s, rows, vp, wp, mp);
    else if (s.panel == 2 * kVl)
      products<12, 2>(s, rows, vp, wp, mp);
    else
      products<12, 1>(s, rows, vp, wp, mp);
#else
    if (s.panel == 2 * kVl)
      products<6, 2>(s, rows, vp, wp, mp);
    else
      products<6, 1>(s, rows, vp, wp, mp);
#endif
  }
  transformOutput(s, first, count, m, bias, residual, y);
}

void winogradWeights(const WinogradShape& s, const float* w, int64_t outStride, int64_t inStride, int flip,
                     int64_t panelIndex, float* packed) {
  constexpr int kWidest = 4 * kVl;
  const int64_t panel = s.panel, columns = s.out - panelIndex * panel < panel ? s.out - panelIndex * panel : panel;
  const float* base = w + panelIndex * panel * outStride;
  float* to = packed + panelIndex * panel * s.in;
  for (int64_t i = 0; i < s.in; ++i) {
    float g[9][kWidest], t[6][3][kWidest];
    for (int tap = 0; tap < 9; ++tap)
      for (int64_t j = 0; j < panel; ++j)
        g[tap][j] = j < columns ? base[j * outStride + i * inStride + (flip ? 8 - tap : tap)] : 0.0f;
    // G g along the rows, then along the columns
    for (int c = 0; c < 3; ++c)
      for (int64_t j = 0; j < panel; ++j) {
        const float g0 = g[c][j], g1 = g[3 + c][j], g2 = g[6 + c][j];
        t[0][c][j] = 0.25f * g0;
        t[1][c][j] = (-1.0f / 6.0f) * (g0 + g1 + g2);
        t[2][c][j] = (-1.0f / 6.0f) * (g0 - g1 + g2);
        t[3][c][j] = (1.0f / 24.0f) * g0 + (1.0f / 12.0f) * g1 + (1.0f / 6.0f) * g2;
        t[4][c][j] = (1.0f / 24.0f) * g0 - (1.0f / 12.0f) * g1 + (1.0f / 6.0f) * g2;
        t[5][c][j] = g2;
      }
    for (int r = 0; r < 6; ++r) {
      float* line = to + r * 6 * s.in * s.paddedOut + i * panel;
      const int64_t point = s.in * s.paddedOut;
      for (int64_t j = 0; j < panel; ++j) {
        const float g0 = t[r][0][j], g1 = t[r][1][j], g2 = t[r][2][j];
        line[j] = 0.25f * g0;
        line[point + j] = (-1.0f / 6.0f) * (g0 + g1 + g2);
        line[2 * point + j] = (-1.0f / 6.0f) * (g0 - g1 + g2);
        line[3 * point + j] = (1.0f / 24.0f) * g0 + (1.0f / 12.0f) * g1 + (1.0f / 6.0f) * g2;
        line[4 * point + j] = (1.0f / 24.0f) * g0 - (1.0f / 12.0f) * g1 + (1.0f / 6.0f) * g2;
        line[5 * point + j] = g2;
      }
    }
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
