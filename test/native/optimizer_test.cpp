// AdamW with its moving average against the formulas in double, with constants large enough that each term shows.
#include "train/optimizer.h"

#include <cmath>

#include "doctest.h"
#include "random_values.h"

using namespace ddad;

TEST_CASE("AdamW and the moving average follow their formulas") {
  const OptimizerSettings settings = {0.8, 0.9, 1e-3, 0.5, 0.7, false};
  const double lr = 0.1;
  testing::RandomValues random(5);
  constexpr int64_t kCount = 37;  // not a multiple of any vector
  std::vector<double> w = random.normal(kCount), ema = w, m(kCount), v(kCount);
  std::vector<float> weights(w.begin(), w.end()), average = weights, first(kCount), second(kCount);
  for (int64_t step = 1; step <= 4; ++step) {
    const std::vector<double> g = random.normal(kCount);
    const std::vector<float> gradients(g.begin(), g.end());
    DDAD_DISPATCH(adamwEma)
    (weights.data(), gradients.data(), first.data(), second.data(), average.data(), kCount,
     adamWStep(settings, lr, step));
    for (size_t i = 0; i < w.size(); ++i) {
      w[i] *= 1 - lr * settings.weightDecay;
      m[i] = settings.beta1 * m[i] + (1 - settings.beta1) * g[i];
      v[i] = settings.beta2 * v[i] + (1 - settings.beta2) * g[i] * g[i];
      const double mHat = m[i] / (1 - std::pow(settings.beta1, static_cast<double>(step)));
      const double vHat = v[i] / (1 - std::pow(settings.beta2, static_cast<double>(step)));
      w[i] -= lr * mHat / (std::sqrt(vHat) + settings.eps);
      ema[i] = settings.ema * ema[i] + (1 - settings.ema) * w[i];
    }
  }
  for (size_t i = 0; i < w.size(); ++i) {  // a few float32 roundings of values near 1
    CHECK(std::abs(static_cast<double>(weights[i]) - w[i]) <= 1e-5);
    CHECK(std::abs(static_cast<double>(average[i]) - ema[i]) <= 1e-5);
  }
}

TEST_CASE("the average warms up to its rate and not beyond") {
  OptimizerSettings settings;
  CHECK(adamWStep(settings, 1e-4, 1).emaRest == doctest::Approx(1 - 2.0 / 11.0));
  CHECK(adamWStep(settings, 1e-4, 100000).emaRest == doctest::Approx(1 - settings.ema));
  settings.emaWarmup = false;
  CHECK(adamWStep(settings, 1e-4, 1).emaRest == doctest::Approx(1 - settings.ema));
}
