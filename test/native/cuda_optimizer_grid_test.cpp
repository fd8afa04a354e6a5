// The bodies of the GPU's optimiser kernels, run over their grids on the CPU.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/aligned_buffer.h"
#include "device/open_device.h"
#include "doctest.h"
#include "random_values.h"
#include "train/optimizer.h"
#include "train/optimizer_grid.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

constexpr float kBehind = -77.0f;
constexpr int64_t kExtra = 4;

/// A block as a device has them, and four values behind it that must stay.
AlignedBuffer blockOf(const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(values.size());
  AlignedBuffer block(n + kExtra);
  std::copy(values.begin(), values.end(), block.data());
  std::fill_n(block.data() + n, kExtra, kBehind);
  return block;
}

void checkClose(const AlignedBuffer& got, const AlignedBuffer& want, double tolerance) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < got.size() - kExtra; ++i) {
    const double w = static_cast<double>(want.data()[i]), error = std::abs(static_cast<double>(got.data()[i]) - w);
    wrong += error <= tolerance * (std::abs(w) + 0.1) ? 0 : 1;
  }
  CHECK(wrong == 0);
  for (int64_t i = got.size() - kExtra; i < got.size(); ++i) CHECK(got.data()[i] == kBehind);
}

struct State {
  explicit State(int64_t n)
      : weights(blockOf(randomValues(n, 1))),
        m(blockOf(std::vector<float>(static_cast<size_t>(n)))),
        v(blockOf(std::vector<float>(static_cast<size_t>(n)))),
        ema(blockOf(randomValues(n, 2))) {}
  AlignedBuffer weights, m, v, ema;
};

double sumOnGrid(const float* x, int64_t n, int64_t share) {
  std::vector<double> partial(static_cast<size_t>(blocksOf(n, share)), std::numeric_limits<double>::quiet_NaN());
  const SumOfSquares sums{x, n, share, partial.data()};
  runGrid(sums);
  double result = std::numeric_limits<double>::quiet_NaN();
  runGrid(SumOfParts{partial.data(), static_cast<int64_t>(partial.size()), &result}, {1, 1});
  return result;
}

}  // namespace

TEST_CASE("grid: AdamW, the moving average and the bf16 copy") {
  // constants large enough that each term shows
  const OptimizerSettings settings = {0.8, 0.9, 1e-3, 0.5, 0.7, false};
  const auto cpu = openDevice("cpu", 1);
  for (const int64_t n : {1, 3, 4, 5, 1024, 1027, 5000})
    for (const bool withHalf : {true, false}) {
      CAPTURE(n);
      State got(n), want(n);
      std::vector<Bf16> half(static_cast<size_t>(n + kExtra + 4), Bf16{0x1234});
      auto* const packs = reinterpret_cast<Bf16*>((reinterpret_cast<uintptr_t>(half.data()) + 7) / 8 * 8);
      for (int64_t step = 1; step <= 4; ++step) {
        const AlignedBuffer gradients = blockOf(randomValues(n, 10 + static_cast<uint32_t>(step)));
        const AdamWStep s = adamWStep(settings, 0.1, step);
        const AdamwEma kernel{got.weights.data(),
                              gradients.data(),
                              got.m.data(),
                              got.v.data(),
                              got.ema.data(),
                              withHalf ? packs : nullptr,
                              n,
                              s};
        runGrid(kernel);
        updateWeights(*cpu, want.weights.data(), gradients.data(), want.m.data(), want.v.data(), want.ema.data(),
                      nullptr, n, s);
      }
      checkClose(got.weights, want.weights, 1e-5);
      checkClose(got.m, want.m, 1e-5);
      checkClose(got.v, want.v, 1e-5);
      checkClose(got.ema, want.ema, 1e-5);
      int64_t wrong = 0;
      for (int64_t i = 0; i < n + kExtra; ++i) {
        const bool written = withHalf && i < n;
        wrong += packs[i].bits == (written ? fromFloat<Bf16>(got.weights.data()[i]).bits : 0x1234) ? 0 : 1;
      }
      CHECK(wrong == 0);
    }
}

TEST_CASE("grid: a gradient that is no number reaches the weights") {
  State state(9);
  AlignedBuffer gradients = blockOf(randomValues(9, 3));
  gradients.data()[2] = gradients.data()[8] = std::numeric_limits<float>::quiet_NaN();
  const AdamwEma kernel{
      state.weights.data(), gradients.data(), state.m.data(), state.v.data(), state.ema.data(), nullptr, 9,
      adamWStep({}, 0.1, 1)};
  runGrid(kernel);
  for (int64_t i = 0; i < 9; ++i) CHECK(std::isnan(state.weights.data()[i]) == (i == 2 || i == 8));
}

TEST_CASE("grid: the sum of squares, in blocks of any share") {
  for (const int64_t n : {1, 2, 5, 4096, 4099, 70001}) {
    const AlignedBuffer x = blockOf(randomValues(n, 5));
    double want = 0.0;
    for (int64_t i = 0; i < n; ++i) want += static_cast<double>(x.data()[i]) * static_cast<double>(x.data()[i]);
    for (const int64_t share : {4, 1000, 4096, 100000}) {
      CAPTURE(n);
      CAPTURE(share);
      const double got = sumOnGrid(x.data(), n, share);
      CHECK(std::abs(got - want) <= 1e-6 * want);
      CHECK(sumOnGrid(x.data(), n, share) == got);
    }
    const auto cpu = openDevice("cpu", 1);
    double onProcessor = 0.0;
    squaredNorm(*cpu, x.data(), n, &onProcessor);
    CHECK(std::abs(onProcessor - want) <= 1e-6 * want);
  }
}

TEST_CASE("grid: the sum of squares of what is no number is none") {
  AlignedBuffer x = blockOf(randomValues(5000, 6));
  x.data()[4998] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(sumOnGrid(x.data(), 5000, 1000)));
  x.data()[4998] = std::numeric_limits<float>::infinity();
  CHECK(std::isinf(sumOnGrid(x.data(), 5000, 1000)));
}
