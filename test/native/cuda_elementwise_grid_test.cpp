// The bodies of the GPU's small kernels, run over their grids on the CPU.
#include <algorithm>
#include <cmath>

#include "doctest.h"
#include "ops/elementwise/elementwise_grid.h"
#include "ops/elementwise/row_sums_grid.h"
#include "random_values.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

template <class T>
std::vector<T> valuesOf(int64_t count, uint32_t seed) {
  std::vector<T> values;
  for (const float v : randomValues(count, seed)) values.push_back(fromFloat<T>(4.0f * v));
  return values;
}

template <class T>
double toleranceOf() {
  return sizeof(T) == 2 ? 4e-3 : 2e-6;  // bf16 keeps 8 bits
}

template <class T>
void checkClose(T got, double want, double tolerance) {
  const double error = std::abs(static_cast<double>(toFloat(got)) - want);
  CHECK_MESSAGE(error <= tolerance * (1.0 + std::abs(want)), toFloat(got) << " for " << want);
}

// Memory that starts at 16 bytes, and one value behind.
template <class T>
struct Memory {
  std::vector<Pack<T>> packs;
  T* data;
  Memory(const std::vector<T>& values, int shift)
      : packs(values.size() / Pack<T>::kSize + 3), data(packs.data()->v + shift) {
    std::copy(values.begin(), values.end(), data);
  }
};

template <class From, class To>
void checkConvert(int64_t n, int shift, bool accumulate) {
  const auto from = valuesOf<From>(n, 1);
  const auto before = valuesOf<To>(n, 2);
  Memory<From> source(from, shift);
  Memory<To> target(before, shift);
  ConvertFlat<From, To> kernel{{n, shift == 0}, source.data, target.data, accumulate};
  runGrid(kernel);
  for (size_t i = 0; i < from.size(); ++i)
    checkClose(target.data[i],
               static_cast<double>(toFloat(from[i])) + (accumulate ? static_cast<double>(toFloat(before[i])) : 0.0),
               toleranceOf<To>());
}

}  // namespace

TEST_CASE("grid: bf16 rounds to nearest, ties to even, and keeps what is no number") {
  CHECK(fromFloat<Bf16>(1.0f).bits == 0x3f80);
  CHECK(fromFloat<Bf16>(1.00390625f).bits == 0x3f80);  // half way: to even
  CHECK(fromFloat<Bf16>(1.01171875f).bits == 0x3f82);  // half way: to even
  CHECK(fromFloat<Bf16>(1.00390637f).bits == 0x3f81);  // above half way
  CHECK(fromFloat<Bf16>(-3.4e38f).bits == 0xff80);     // beyond the largest
  CHECK(toFloat(fromFloat<Bf16>(INFINITY)) == INFINITY);
  CHECK(std::isnan(toFloat(fromFloat<Bf16>(NAN))));
  CHECK(fromFloat<Bf16>(-0.0f).bits == 0x8000);
}

TEST_CASE("grid: conversion, whole runs and tails, aligned and not") {
  for (const int64_t n : {1, 7, 8, 2048, 5003})
    for (const int shift : {0, 1})
      for (const bool accumulate : {false, true}) {
        checkConvert<float, Bf16>(n, shift, accumulate);
        checkConvert<Bf16, float>(n, shift, accumulate);
        checkConvert<float, float>(n, shift, accumulate);
        checkConvert<Bf16, Bf16>(n, shift, accumulate);
      }
}

TEST_CASE("grid: rows get longer and shorter") {
  for (const auto& [fromChannels, toChannels] : {std::pair<int64_t, int64_t>{3, 8}, {8, 6}, {1, 8}})
    for (const bool accumulate : {false, true}) {
      const int64_t rows = 301;
      const auto from = valuesOf<float>(rows * fromChannels, 3);
      const auto before = valuesOf<Bf16>(rows * toChannels, 4);
      auto to = before;
      const ConvertRows<float, Bf16> kernel{from.data(), to.data(), rows, fromChannels, toChannels, accumulate};
      runGrid(kernel);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < toChannels; ++c) {
          const auto i = static_cast<size_t>(r * toChannels + c);
          const double want =
              c < fromChannels ? static_cast<double>(from[static_cast<size_t>(r * fromChannels + c)]) : 0.0;
          checkClose(to[i], want + (accumulate ? static_cast<double>(toFloat(before[i])) : 0.0), toleranceOf<Bf16>());
        }
    }
}

TEST_CASE("grid: activations and their gradients") {
  const int64_t n = 1003;
  auto x = valuesOf<float>(n, 5);
  x[3] = 9.0f;
  const auto dy = valuesOf<float>(n, 6);
  std::vector<float> y(x.size()), dx(x.size());
  for (const Activation activation : {Activation::kSilu, Activation::kRelu6}) {
    const Activate<float> forward{{n, true}, x.data(), y.data(), activation};
    runGrid(forward);
    const bool silu = activation == Activation::kSilu;
    const ActivationGradient<float> backward{{n, true}, silu ? x.data() : y.data(), dy.data(), dx.data(), activation};
    runGrid(backward);
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = static_cast<double>(x[i]), s = 1.0 / (1.0 + std::exp(-v));
      checkClose(y[i], silu ? v * s : std::clamp(v, 0.0, 6.0), 2e-6);
      const double slope = silu ? s * (1.0 + v * (1.0 - s)) : v > 0 && v < 6 ? 1.0 : 0.0;
      checkClose(dx[i], static_cast<double>(dy[i]) * slope, 4e-6);
    }
  }
}

TEST_CASE("grid: bias, residual and activation after a convolution") {
  for (const int64_t channels : {16, 6}) {
    const int64_t rows = 77, sumChannels = (channels + 7) / 8 * 8;
    const auto sums = valuesOf<Bf16>(rows * sumChannels, 7), added = valuesOf<Bf16>(rows * channels, 8);
    const auto bias = valuesOf<float>(channels, 9);
    for (const bool residual : {false, true}) {
      std::vector<float> out(static_cast<size_t>(rows * channels));
      const EpilogueRows<Bf16, Bf16, float> kernel{sums.data(),
                                                   bias.data(),
                                                   residual ? added.data() : nullptr,
                                                   out.data(),
                                                   rows,
                                                   sumChannels,
                                                   channels,
                                                   Activation::kRelu6,
                                                   channels % kRun == 0};
      runGrid(kernel);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; ++c) {
          const auto i = static_cast<size_t>(r * channels + c);
          double want = static_cast<double>(toFloat(sums[static_cast<size_t>(r * sumChannels + c)])) +
                        static_cast<double>(bias[static_cast<size_t>(c)]);
          if (residual) want += static_cast<double>(toFloat(added[i]));
          checkClose(out[i], std::clamp(want, 0.0, 6.0), 2e-6);
        }
    }
  }
}

TEST_CASE("grid: sums of columns") {
  for (const int64_t columns : {2, 8, 136, 300})
    for (const int64_t rows : {1, 63, 1000}) {
      const auto x = valuesOf<Bf16>(rows * columns, 10);
      const int64_t chunkRows = 70, chunks = blocksOf(rows, chunkRows);
      std::vector<float> partial(static_cast<size_t>(chunks * columns), NAN), to(static_cast<size_t>(columns), NAN);
      const ColumnSums<Bf16> sums{x.data(), partial.data(), rows, columns, chunkRows, columns % kRun == 0};
      runGrid(sums);
      const ColumnTotals totals{partial.data(), to.data(), chunks, columns};
      runGrid(totals);
      for (int64_t c = 0; c < columns; ++c) {
        double want = 0;
        for (int64_t r = 0; r < rows; ++r)
          want += static_cast<double>(toFloat(x[static_cast<size_t>(r * columns + c)]));
        checkClose(to[static_cast<size_t>(c)], want, 1e-5);
      }
    }
}

TEST_CASE("grid: softmax of rows and its gradient") {
  const int64_t rows = 5, columns = 203;
  const float scale = 0.37f;
  const auto scores = valuesOf<float>(rows * columns, 11), direction = valuesOf<float>(rows * columns, 12);
  auto p = scores, gradient = direction;
  const SoftmaxRows forward{p.data(), rows, columns, scale};
  runGrid(forward);
  const SoftmaxRowsGradient backward{p.data(), gradient.data(), rows, columns, scale};
  runGrid(backward);
  for (int64_t r = 0; r < rows; ++r) {
    const auto at = [&](int64_t i) { return static_cast<size_t>(r * columns + i); };
    double total = 0, dot = 0;
    std::vector<double> want;
    for (int64_t i = 0; i < columns; ++i) want.push_back(std::exp(static_cast<double>(scale * scores[at(i)])));
    for (const double e : want) total += e;
    for (int64_t i = 0; i < columns; ++i) {
      want[static_cast<size_t>(i)] /= total;
      dot += want[static_cast<size_t>(i)] * static_cast<double>(direction[at(i)]);
    }
    for (int64_t i = 0; i < columns; ++i) {
      checkClose(p[at(i)], want[static_cast<size_t>(i)], 2e-6);
      checkClose(
          gradient[at(i)],
          static_cast<double>(scale) * want[static_cast<size_t>(i)] * (static_cast<double>(direction[at(i)]) - dot),
          2e-6);
    }
  }
}

TEST_CASE("grid: a value that is not finite is found, wherever it is") {
  std::vector<float> x(1001, 1.0f);
  int32_t found = 0;
  const FindNonFinite kernel{x.data(), 1001, &found};
  runGrid(kernel);
  CHECK(found == 0);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    found = 0;
    x[1000] = bad;
    runGrid(kernel);
    CHECK(found == 1);
  }
}
