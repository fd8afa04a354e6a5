#include "ops/elementwise/activation_math.h"
#include "ops/squeeze_excite/squeeze_excite_kernels.h"

namespace ddad {
namespace DDAD_ISA {

void denseLayer(float* y, const float* x, const float* weight, const float* bias, int64_t out, int64_t in) {
  for (int64_t o = 0; o < out; ++o) {
    const float* w = weight + o * in;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < in; ++i) sum += w[i] * x[i];
    y[o] = sum + bias[o];
  }
}

void sigmoidForward(float* y, const float* x, int64_t n) {
#pragma omp simd  // also where y is x
  for (int64_t i = 0; i < n; ++i) y[i] = sigmoidOf(x[i]);
}

void gateRows(float* y, const float* x, const float* gate, int64_t rows, int64_t channels) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * channels;
    float* to = y + r * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) to[c] = from[c] * gate[c];
  }
}

void productSums(float* sums, const float* x, const float* dy, int64_t rows, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) sums[c] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const float *value = x + r * channels, *gradient = dy + r * channels;
    for (int64_t c = 0; c < channels; ++c) sums[c] += value[c] * gradient[c];
  }
}

void gateRowsBackward(float* dx, const float* dy, const float* gate, const float* shift, int64_t rows, int64_t channels,
                      int accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* gradient = dy + r * channels;
    float* to = dx + r * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float g = gradient[c] * gate[c] + shift[c];
      to[c] = accumulate ? to[c] + g : g;
    }
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
