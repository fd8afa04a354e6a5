#include "base/philox.h"

#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "doctest.h"

using namespace ddad;

namespace {

std::array<uint32_t, 4> words(std::array<uint32_t, 4> counter, uint32_t key0, uint32_t key1) {
  philox4x32(key0, key1, counter.data());
  return counter;
}

}  // namespace

TEST_SUITE("philox") {
  TEST_CASE("known answers of Random123 (philox4x32, 10 rounds)") {
    using Words = std::array<uint32_t, 4>;
    CHECK(words({0, 0, 0, 0}, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    CHECK(words({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(words({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
          Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  }

  TEST_CASE("uniform numbers keep to their ranges") {
    CHECK(uniformOpenZero(0) > 0.0f);
    CHECK(uniformOpenZero(~0u) == 1.0f);
    CHECK(uniformOpenOne(0) == 0.0f);
    CHECK(uniformOpenOne(~0u) < 1.0f);
    float a, b;
    normalPair(0, 0, &a, &b);
    CHECK(a == doctest::Approx(std::sqrt(64 * std::log(2.0))));
    CHECK(b == 0.0f);
    normalPair(~0u, 0, &a, &b);
    CHECK(a == 0.0f);
  }

  TEST_CASE("every part of the counter and the key counts") {
    std::set<float> first;
    float out[4];
    const auto draw = [&](uint64_t seed, uint32_t stream, uint32_t step, uint32_t sample, uint32_t block) {
      philoxNormal4(seed, stream, step, sample, block, out);
      first.insert(out[0]);
    };
    draw(0, 0, 0, 0, 0);
    draw(1, 0, 0, 0, 0);
    draw(uint64_t{1} << 32, 0, 0, 0, 0);
    draw(0, 1, 0, 0, 0);
    draw(0, 0, 1, 0, 0);
    draw(0, 0, 0, 1, 0);
    draw(0, 0, 0, 0, 1);
    CHECK(first.size() == 7);
  }

  TEST_CASE("normal numbers have the moments of a standard normal distribution") {
    constexpr int kBlocks = 250000;
    constexpr double n = 4.0 * kBlocks;
    double sum = 0, squares = 0, cubes = 0, fourths = 0, products = 0, beyond2 = 0;
    for (uint32_t block = 0; block < kBlocks; ++block) {
      float out[4];
      philoxNormal4(7, kStreamTrainingNoise, 3, 1, block, out);
      for (const float x : out) {
        sum += x;
        squares += x * x;
        cubes += x * x * x;
        fourths += x * x * x * x;
        beyond2 += std::abs(x) > 2.0f ? 1 : 0;
      }
      products += out[0] * out[1] + out[2] * out[3] + out[0] * out[2];
    }
    CHECK(std::abs(sum / n) < 4e-3);
    CHECK(squares / n == doctest::Approx(1.0).epsilon(6e-3));
    CHECK(std::abs(cubes / n) < 2e-2);
    CHECK(fourths / n == doctest::Approx(3.0).epsilon(2e-2));
    CHECK(std::abs(products / n) < 4e-3);
    CHECK(beyond2 / n == doctest::Approx(0.0455).epsilon(2e-2));
  }

  TEST_CASE("whole numbers below a bound are spread evenly") {
    std::vector<int> counts(10);
    for (uint32_t sample = 0; sample < 100000; ++sample) {
      const uint32_t value = philoxBelow(1, kStreamTimestep, 0, sample, 10);
      REQUIRE(value < 10);
      ++counts[value];
    }
    for (const int count : counts) CHECK(std::abs(count - 10000) < 400);
    CHECK(philoxBelow(1, kStreamTimestep, 0, 0, 1) == 0);
  }
}
