#pragma once
// What the Winograd kernels share: the transform of the input and where a tile lies; only for *_simd.cpp files.
#include "device/simd.h"
#include "ops/conv/winograd.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

// B^T d: six input values to the points 0, 1, -1, 2, -2, infinity.
DDAD_HD void inputPoints(Vec d0, Vec d1, Vec d2, Vec d3, Vec d4, Vec d5, Vec* t0, Vec* t1, Vec* t2, Vec* t3, Vec* t4,
                         Vec* t5) {
  const Vec a = d4 - 4.0f * d2, b = d3 - 4.0f * d1;
  const Vec c = d4 - d2, e = 2.0f * (d3 - d1);
  *t0 = 4.0f * d0 - 5.0f * d2 + d4;
  *t1 = a + b;
  *t2 = a - b;
  *t3 = c + e;
  *t4 = c - e;
  *t5 = 4.0f * d1 - 5.0f * d3 + d5;
}

// Fewer channels than a vector has: through a padded line.
DDAD_HD Vec loadSome(const float* p, int64_t count) {
  if (count >= kVl) return load(p);
  float line[kVl] = {};
  for (int64_t i = 0; i < count; ++i) line[i] = p[i];
  return load(line);
}
DDAD_HD void storeSome(float* p, Vec v, int64_t count) {
  if (count >= kVl) return store(p, v);
  float line[kVl];
  store(line, v);
  for (int64_t i = 0; i < count; ++i) p[i] = line[i];
}

struct TilePlace {
  int64_t sample, y, x;  // first output pixel
};

DDAD_HD TilePlace placeOf(const WinogradShape& s, int64_t tile) {
  const int64_t plane = s.tileRows * s.tileColumns, sample = tile / plane, inside = tile % plane;
  return {sample, inside / s.tileColumns * 4, inside % s.tileColumns * 4};
}

// v[point][tile][in]
void transformInput(const WinogradShape& s, int64_t first, int64_t count, const float* x, float* v) {
  const int64_t pointStride = s.block * s.in;
  for (int64_t i = 0; i < count; ++i) {
    const TilePlace place = placeOf(s, first + i);
    const float* rows[6];
    bool inside[6];
    for (int r = 0; r < 6; ++r) {
      const int64_t y = place.y + r - 1, px = place.x + r - 1;
      rows[r] = y >= 0 && y < s.height ? x + (place.sample * s.height + y) * s.width * s.in : nullptr;
      inside[r] = px >= 0 && px < s.width;
    }
    for (int64_t c = 0; c < s.in; c += kVl) {
      const int64_t channels = s.in - c;
      Vec t[6][6];
      for (int r = 0; r < 6; ++r) {
        Vec d[6];
        for (int k = 0; k < 6; ++k)
          d[k] = rows[r] && inside[k] ? loadSome(rows[r] + (place.x + k - 1) * s.in + c, channels) : Vec{};
        inputPoints(d[0], d[1], d[2], d[3], d[4], d[5], &t[r][0], &t[r][1], &t[r][2], &t[r][3], &t[r][4], &t[r][5]);
      }
      float* to = v + i * s.in + c;
      for (int k = 0; k < 6; ++k) {
        Vec u[6];
        inputPoints(t[0][k], t[1][k], t[2][k], t[3][k], t[4][k], t[5][k], &u[0], &u[1], &u[2], &u[3], &u[4], &u[5]);
        for (int r = 0; r < 6; ++r) storeSome(to + (r * 6 + k) * pointStride, u[r], channels);
      }
    }
  }
}

}  // namespace
}  // namespace DDAD_ISA
}  // namespace ddad
