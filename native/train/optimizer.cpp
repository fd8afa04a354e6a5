#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace ddad {

AdamWStep adamWStep(const OptimizerSettings& s, double lr, int64_t step) {
  const auto n = static_cast<double>(step);
  const double ema = s.emaWarmup ? std::min(s.ema, (1.0 + n) / (10.0 + n)) : s.ema;
  return {static_cast<float>(1.0 - lr * s.weightDecay),
          static_cast<float>(s.beta1),
          static_cast<float>(s.beta2),
          static_cast<float>(1.0 - s.beta1),
          static_cast<float>(1.0 - s.beta2),
          static_cast<float>(lr / (1.0 - std::pow(s.beta1, n))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, n))),
          static_cast<float>(s.eps),
          static_cast<float>(1.0 - ema)};
}

}  // namespace ddad
