#include "backbone/feature_kernels.h"

namespace ddad {
namespace DDAD_ISA {

double squaredDistance(const float* a, const float* b, int64_t n, float scale, float* gradient) {
  float sum = 0.0f;
  if (gradient == nullptr) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return static_cast<double>(sum);
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const float d = a[i] - b[i];
    gradient[i] = d * scale;
    sum += d * d;
  }
  return static_cast<double>(sum);
}

}  // namespace DDAD_ISA
}  // namespace ddad
