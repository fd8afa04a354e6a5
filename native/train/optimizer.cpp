#include "train/optimizer.h"

#include <cmath>

namespace ddad {

AdamWStep adamWStep(const OptimizerSettings& s, double lr, int64_t step) {
  const auto n = static_cast<double>(step);
  return {static_cast<float>(1.0 - lr * s.weightDecay),
          static_cast<float>(s.beta1),
          static_cast<float>(s.beta2),
          static_cast<float>(1.0 - s.beta1),
          static_cast<float>(1.0 - s.beta2),
          static_cast<float>(lr / (1.0 - std::pow(s.beta1, n))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, n))),
          static_cast<float>(s.eps),
          static_cast<float>(1.0 - s.ema)};
}

}  // namespace ddad
