#include "device/simd.h"
#include "train/optimizer.h"

namespace ddad {
namespace DDAD_ISA {

void adamwEma(float* weights, const float* gradients, float* m, float* v, float* ema, int64_t n, const AdamWStep& s) {
  const AdamWStep k = s;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) adamwUpdate(k, gradients[i], weights[i], m[i], v[i], ema[i]);
}

double sumOfSquares(const float* x, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace DDAD_ISA
}  // namespace ddad
