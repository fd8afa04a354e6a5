#include "device/simd.h"
#include "train/optimizer.h"

namespace ddad {
namespace DDAD_ISA {

void adamwEma(float* weights, const float* gradients, float* m, float* v, float* ema, int64_t n, const AdamWStep& s) {
  const AdamWStep k = s;
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradients[i];
    const float mi = k.beta1 * m[i] + k.rest1 * g;
    const float vi = k.beta2 * v[i] + k.rest2 * g * g;
    m[i] = mi;
    v[i] = vi;
    const float w = weights[i] * k.decay - k.rate * mi / (__builtin_sqrtf(vi) * k.inverseBias2 + k.eps);
    weights[i] = w;
    ema[i] += k.emaRest * (w - ema[i]);
  }
}

double sumOfSquares(const float* x, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace DDAD_ISA
}  // namespace ddad
