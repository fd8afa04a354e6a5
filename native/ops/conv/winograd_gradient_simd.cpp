#include "ops/conv/winograd_gradient.h"
#include "ops/conv/winograd_tile.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

// A y: four output values to six points.
DDAD_HD void outputPoints(Vec y0, Vec y1, Vec y2, Vec y3, Vec* u0, Vec* u1, Vec* u2, Vec* u3, Vec* u4, Vec* u5) {
  const Vec a = y0 + y2, b = y1 + y3, c = y0 + 4.0f * y2, d = 2.0f * y1 + 8.0f * y3;
  *u0 = y0;
  *u1 = a + b;
  *u2 = a - b;
  *u3 = c + d;
  *u4 = c - d;
  *u5 = y3;
}

// G^T m: six points to three weights.
DDAD_HD void weightValues(Vec m0, Vec m1, Vec m2, Vec m3, Vec m4, Vec m5, Vec* g0, Vec* g1, Vec* g2) {
  const Vec s1 = m1 + m2, d1 = m2 - m1, s2 = m3 + m4, d2 = m3 - m4;
  *g0 = 0.25f * m0 - (1.0f / 6.0f) * s1 + (1.0f / 24.0f) * s2;
  *g1 = (1.0f / 6.0f) * d1 + (1.0f / 12.0f) * d2;
  *g2 = (1.0f / 6.0f) * (s2 - s1) + m5;
}

// u[point][tile][paddedOut]
void transformGradient(const WinogradShape& s, int64_t first, int64_t count, const float* dy, float* u) {
  const int64_t pointStride = s.block * s.paddedOut;
  for (int64_t i = 0; i < count; ++i) {
    const TilePlace place = placeOf(s, first + i);
    const float* origin = dy + ((place.sample * s.height + place.y) * s.width + place.x) * s.out;
    for (int64_t c = 0; c < s.paddedOut; c += kVl) {
      const int64_t channels = s.out - c;
      Vec t[4][6];
      for (int r = 0; r < 4; ++r) {
        Vec d[4];
        for (int k = 0; k < 4; ++k)
          d[k] = channels > 0 && place.y + r < s.height && place.x + k < s.width
                     ? loadSome(origin + (r * s.width + k) * s.out + c, channels)
                     : Vec{};
        outputPoints(d[0], d[1], d[2], d[3], &t[r][0], &t[r][1], &t[r][2], &t[r][3], &t[r][4], &t[r][5]);
      }
      float* to = u + i * s.paddedOut + c;
      for (int k = 0; k < 6; ++k) {
        Vec p[6];
        outputPoints(t[0][k], t[1][k], t[2][k], t[3][k], &p[0], &p[1], &p[2], &p[3], &p[4], &p[5]);
        for (int r = 0; r < 6; ++r) store(to + (r * 6 + k) * pointStride, p[r]);
      }
    }
  }
}

}  // namespace

void winogradGradientTiles(const WinogradShape& s, int64_t first, int64_t begin, int64_t count, const float* x,
                           const float* dy, float* v, float* u) {
  transformInput(s, first + begin, count, x, v + begin * s.in);
  transformGradient(s, first + begin, count, dy, u + begin * s.paddedOut);
}

void winogradGradientWeights(const WinogradShape& s, const float* m, int64_t begin, int64_t end, float* weightGrad) {
  const int64_t pointStride = s.in * s.paddedOut;
  for (int64_t i = begin; i < end; ++i)
    for (int64_t o = 0; o < s.out; o += kVl) {
      const float* from = m + i * s.paddedOut + o;
      Vec t[3][6];
      for (int k = 0; k < 6; ++k) {
        const float* p = from + k * pointStride;
        const int64_t six = 6 * pointStride;
        weightValues(load(p), load(p + six), load(p + 2 * six), load(p + 3 * six), load(p + 4 * six), load(p + 5 * six),
                     &t[0][k], &t[1][k], &t[2][k]);
      }
      float taps[9][kVl];
      for (int r = 0; r < 3; ++r) {
        Vec g[3];
        weightValues(t[r][0], t[r][1], t[r][2], t[r][3], t[r][4], t[r][5], &g[0], &g[1], &g[2]);
        for (int k = 0; k < 3; ++k) store(taps[r * 3 + k], g[k]);
      }
      for (int64_t j = 0; j < kVl && o + j < s.out; ++j)
        for (int tap = 0; tap < 9; ++tap) weightGrad[((o + j) * s.in + i) * 9 + tap] = taps[tap][j];
    }
}

}  // namespace DDAD_ISA
}  // namespace ddad
