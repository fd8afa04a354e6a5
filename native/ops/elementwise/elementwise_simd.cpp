#include "device/simd.h"
#include "ops/elementwise/activation_math.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace DDAD_ISA {

void addInto(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void scaleInto(float* y, const float* x, int64_t n, float scale, int accumulate) {
  if (accumulate)
    for (int64_t i = 0; i < n; ++i) y[i] += x[i] * scale;
  else
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale;
}

void mixRows(float* y, const float* a, const float* b, int64_t n, float share) {
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + (b[i] - a[i]) * share;
}

void columnSums(const float* x, int64_t rows, int64_t stride, int64_t channels, float* sums) {
  for (int64_t c = 0; c < channels; ++c) sums[c] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * stride;
    for (int64_t c = 0; c < channels; ++c) sums[c] += row[c];
  }
}

float smallestOf(const float* x, int64_t n, float start) {
  Vec least = Vec{} + start;
  int64_t i = 0;
  for (; i + kVl <= n; i += kVl) {
    const Vec v = load(x + i);
    least = v < least ? v : least;
  }
  float line[kVl], result = start;
  store(line, least);
  for (int j = 0; j < kVl; ++j) result = line[j] < result ? line[j] : result;
  for (; i < n; ++i) result = x[i] < result ? x[i] : result;
  return result;
}

void siluForward(float* y, const float* x, int64_t n) {
#pragma omp simd  // also where y is x
  for (int64_t i = 0; i < n; ++i) y[i] = siluOf(x[i]);
}

void siluBackward(float* dx, const float* x, const float* dy, int64_t n, int accumulate) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = dy[i] * siluSlope(x[i], sigmoidOf(x[i]));
    dx[i] = accumulate ? dx[i] + g : g;
  }
}

void relu6Forward(float* y, const float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = relu6Of(x[i]);
}

void relu6Gradient(float* dx, const float* y, const float* dy, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] = relu6Slope(y[i]) * dy[i];
}

void sumFour(float* y, const float* x00, const float* x01, const float* x10, const float* x11, int64_t n, float scale,
             int accumulate) {
  if (accumulate)
    for (int64_t i = 0; i < n; ++i) y[i] += ((x00[i] + x01[i]) + (x10[i] + x11[i])) * scale;
  else
    for (int64_t i = 0; i < n; ++i) y[i] = ((x00[i] + x01[i]) + (x10[i] + x11[i])) * scale;
}

}  // namespace DDAD_ISA
}  // namespace ddad
