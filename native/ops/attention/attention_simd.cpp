#include "base/vecmath.h"
#include "device/simd.h"
#include "ops/attention/attention_kernels.h"

namespace ddad {
namespace DDAD_ISA {

void softmaxRows(float* s, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, s += n) {
    float largest = s[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) largest = s[i] > largest ? s[i] : largest;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
      s[i] = fastExp(s[i] - largest);
      sum += s[i];
    }
    const float inverse = 1.0f / sum;
    for (int64_t i = 0; i < n; ++i) s[i] *= inverse;
  }
}

void softmaxGradRows(const float* p, float* d, int64_t rows, int64_t n, float scale) {
  for (int64_t r = 0; r < rows; ++r, p += n, d += n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += p[i] * d[i];
    for (int64_t i = 0; i < n; ++i) d[i] = p[i] * (d[i] - sum) * scale;
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
