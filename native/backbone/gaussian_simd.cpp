#include "backbone/gaussian_kernels.h"

namespace ddad {
namespace DDAD_ISA {

double squaredMahalanobis(const float* x, const float* mean, const float* precision, int64_t d, float* difference,
                          float* product) {
  for (int64_t i = 0; i < d; ++i) difference[i] = x[i] - mean[i];
  double squared = 0.0;
  for (int64_t i = 0; i < d; ++i) {
    const float* row = precision + i * d;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < d; ++j) sum += row[j] * difference[j];
    product[i] = sum;
    squared += static_cast<double>(sum) * difference[i];
  }
  return squared;
}

void addOuterProduct(const double* a, const double* b, int64_t first, int64_t last, double* moments) {
  for (int64_t i = first; i < last; ++i) {
    double* row = moments + i * (i + 1) / 2;
    const double scale = a[i];
    for (int64_t j = 0; j <= i; ++j) row[j] += scale * b[j];
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
