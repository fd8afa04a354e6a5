#pragma once
// A step of AdamW and of the moving average of the weights, for one parameter, written once for the CPU and CUDA.
#include "base/vecmath.h"

namespace ddad {

/// Constants of one step, computed in double.
struct AdamWStep {
  float decay;                       // 1 - lr * weightDecay
  float beta1, beta2, rest1, rest2;  // rest = 1 - beta
  float rate;                        // lr / (1 - beta1^step)
  float inverseBias2;                // 1 / sqrt(1 - beta2^step)
  float eps;
  float emaRest;  // 1 - ema
};

DDAD_HD void adamwUpdate(const AdamWStep& k, float gradient, float& weight, float& m, float& v, float& ema) {
  m = k.beta1 * m + k.rest1 * gradient;
  v = k.beta2 * v + k.rest2 * gradient * gradient;
  weight = weight * k.decay - k.rate * m / (fastSqrt(v) * k.inverseBias2 + k.eps);
  ema += k.emaRest * (weight - ema);
}

}  // namespace ddad
