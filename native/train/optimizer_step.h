#pragma once

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

}  // namespace ddad
