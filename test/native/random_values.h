#pragma once
#include <cstdint>
#include <random>
#include <vector>

namespace ddad::testing {

/// Seeded values for tests; rounded to float so that the double reference and the kernels see the same numbers.
class RandomValues {
 public:
  explicit RandomValues(uint32_t seed) : engine_(seed) {}
  std::vector<double> normal(int64_t count, double scale = 1.0) {
    std::normal_distribution<double> distribution(0.0, scale);
    std::vector<double> values(static_cast<size_t>(count));
    for (double& v : values) v = static_cast<double>(static_cast<float>(distribution(engine_)));
    return values;
  }

 private:
  std::mt19937 engine_;
};

/// Normal values as the engine has them, with standard deviation 0.5.
inline std::vector<float> randomValues(int64_t count, uint32_t seed) {
  const auto values = RandomValues(seed).normal(count, 0.5);
  return {values.begin(), values.end()};
}

}  // namespace ddad::testing
