// The bodies of the GPU's feature kernels, run over their grids on the CPU, against the processor's own functions or a
// reference in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backbone/feature_grid.h"
#include "backbone/features.h"
#include "backbone/gaussian.h"
#include "device/open_device.h"
#include "doctest.h"
#include "random_values.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kBehind = -77.0f;

/// What a kernel writes: not a number before, and a value behind the end that must stay as it is.
std::vector<float> output(int64_t count, float before = kNan) {
  std::vector<float> values(static_cast<size_t>(count), before);
  values.push_back(kBehind);
  return values;
}

void checkClose(const std::vector<float>& got, const std::vector<float>& want, double tolerance) {
  REQUIRE(got.size() == want.size() + 1);
  int64_t wrong = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double w = static_cast<double>(want[i]), error = std::abs(static_cast<double>(got[i]) - w);
    wrong += error <= tolerance * (std::abs(w) + 0.1) ? 0 : 1;
  }
  CHECK(wrong == 0);
  CHECK(got.back() == kBehind);
}

std::shared_ptr<Device> processor() { return openDevice("cpu", 1); }

/// Sizes of a tap and of the grid: the same, finer, coarser, not multiples of each other, one position.
struct TapCase {
  int64_t images, inHeight, inWidth, height, width;
};
const TapCase kTapCases[] = {{2, 6, 5, 6, 5},   {1, 8, 12, 4, 6}, {2, 3, 4, 6, 8},  {1, 7, 5, 3, 11},
                             {2, 1, 1, 5, 4},   {1, 2, 1, 9, 1},  {1, 16, 3, 1, 1}, {3, 5, 2, 13, 17},
                             {1, 33, 31, 8, 7}, {1, 4, 4, 64, 64}};

template <class Body>
void forTaps(Body body) {
  for (const TapCase& c : kTapCases)
    for (const bool whole : {true, false}) {
      CAPTURE(c.inHeight);
      CAPTURE(c.height);
      CAPTURE(whole);
      const std::vector<int32_t> source = whole ? std::vector<int32_t>{0, 1, 2, 3, 4} : std::vector<int32_t>{1, 3, 4},
                                 place = whole ? std::vector<int32_t>{2, 3, 4, 5, 6} : std::vector<int32_t>{0, 2, 6};
      const std::vector<float> mean = {0.1f, -0.2f, 0.3f, 0.4f, -0.5f}, inverseStd = {2, 0.5f, 1, 3, 0.25f};
      body(TapResize{c.images, c.inHeight, c.inWidth, 5, c.height, c.width, 8, static_cast<int64_t>(source.size()),
                     source.data(), place.data(), mean.data(), inverseStd.data()});
    }
}

std::vector<float> onGrid(const TapResize& r, const std::vector<float>& tap) {
  auto got = output(r.images * r.height * r.width * r.outChannels, -3.0f);
  const ResizeTapValues kernel{r, tap.data(), got.data()};
  runGrid(kernel);
  return got;
}

std::vector<float> backOnGrid(const TapResize& r, const std::vector<float>& gradient,
                              const std::vector<float>& before) {
  auto got = before;
  got.push_back(kBehind);
  const ResizeTapBackValues kernel{r, gradient.data(), got.data()};
  runGrid(kernel);
  return got;
}

}  // namespace

TEST_CASE("grid: images reduced by whole factors") {
  for (const int64_t channels : {1, 3})
    for (const int64_t scale : {1, 2, 3}) {
      const int64_t n = 2, height = 5, width = 37;
      const auto from = randomValues(n * height * width * channels * scale * scale, 1);
      auto got = output(n * height * width * channels);
      std::vector<float> want(got.size() - 1);
      const ReducePixels kernel{from.data(), n * height, width, channels, scale, got.data()};
      runGrid(kernel);
      reduceImages(*processor(), from.data(), n, height, width, channels, scale, want.data());
      checkClose(got, want, 1e-6);
    }
}

TEST_CASE("grid: one channel becomes three, and its transpose") {
  for (const int64_t channels : {1, 3})
    for (const int64_t count : {1, 85, 86, 301}) {
      const auto from = randomValues(count * channels, 2), three = randomValues(count * 3, 3);
      auto repeated = output(count * 3), summed = output(count * channels);
      std::vector<float> wantRepeated(repeated.size() - 1), wantSummed(summed.size() - 1);
      const RepeatPixels repeat{from.data(), count, channels, repeated.data()};
      runGrid(repeat);
      repeatChannels(*processor(), from.data(), count, channels, wantRepeated.data());
      checkClose(repeated, wantRepeated, 0.0);
      const SumPixels sum{three.data(), count, channels, summed.data()};
      runGrid(sum);
      sumChannels(*processor(), three.data(), count, channels, wantSummed.data());
      checkClose(summed, wantSummed, 1e-6);
    }
}

TEST_CASE("grid: a tap resized, whole and chosen channels; the others stay") {
  forTaps([](const TapResize& r) {
    const auto tap = randomValues(r.images * r.inHeight * r.inWidth * r.inChannels, 4);
    const auto got = onGrid(r, tap);
    std::vector<float> want(got.size() - 1, -3.0f);
    resizeTap(*processor(), r, tap.data(), want.data());
    checkClose(got, want, 2e-6);
  });
}

TEST_CASE("grid: the transpose of a resized tap adds to the gradient, the same numbers in every run") {
  forTaps([](const TapResize& r) {
    const auto gradient = randomValues(r.images * r.height * r.width * r.outChannels, 5);
    const auto before = randomValues(r.images * r.inHeight * r.inWidth * r.inChannels, 6);
    const auto got = backOnGrid(r, gradient, before);
    auto want = before;
    resizeTapBack(*processor(), r, gradient.data(), want.data());
    // 64 x 64 positions give to 4 x 4: sums of hundreds
    checkClose(got, want, r.height >= 64 ? 1e-4 : 1e-5);
    CHECK(backOnGrid(r, gradient, before) == got);
  });
}

TEST_CASE("grid: every position gives all of its gradient, whatever the sizes") {
  const int32_t zero = 0;
  const float mean = 0.0f, inverseStd = 1.0f;
  for (int64_t in = 1; in <= 40; ++in)
    for (int64_t n = 1; n <= 40; ++n) {
      const TapResize r = {1, in, 1, 1, n, 1, 1, 1, &zero, &zero, &mean, &inverseStd};
      std::vector<float> gradient(static_cast<size_t>(n));
      std::iota(gradient.begin(), gradient.end(), 1.0f);
      const std::vector<float> before(static_cast<size_t>(in));
      const auto got = backOnGrid(r, gradient, before);
      const double sum = std::accumulate(got.begin(), got.end() - 1, 0.0), all = static_cast<double>(n * (n + 1) / 2);
      CHECK_MESSAGE(std::abs(sum - all) <= 1e-5 * all, sum << " of " << all << ", " << n << " from " << in);
    }
}

TEST_CASE("grid: the loss of features and its gradient") {
  for (const auto& [samples, elements] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 255}, {2, 1024}, {2, 1025}, {3, 5003}}) {
    CAPTURE(elements);
    const auto predicted = randomValues(samples * elements, 7), target = randomValues(samples * elements, 8);
    auto gradient = output(samples * elements);
    std::vector<float> wantGradient(gradient.size() - 1);
    std::vector<double> losses(static_cast<size_t>(samples), static_cast<double>(kNan)), want(losses);
    const double weight = 1.5 * static_cast<double>(elements);  // gradients of about 1
    FeatureLossValues kernel{predicted.data(),
                             target.data(),
                             samples,
                             elements,
                             static_cast<float>(2.0 * weight / static_cast<double>(elements * samples)),
                             gradient.data(),
                             nullptr};
    std::vector<double> partial(static_cast<size_t>(samples * kernel.blocks()), static_cast<double>(kNan));
    kernel.partial = partial.data();
    runGrid(kernel);
    const FeatureLossTotals totals{partial.data(), samples, kernel.blocks(), elements, losses.data()};
    runGrid(totals);
    featureLoss(*processor(), predicted.data(), target.data(), samples, elements, weight, want.data(),
                wantGradient.data());
    for (size_t n = 0; n < want.size(); ++n) CHECK(std::abs(losses[n] - want[n]) <= 1e-5 * want[n]);
    checkClose(gradient, wantGradient, 1e-6);
  }
}

TEST_CASE("grid: the error of features at each position") {
  for (const int64_t channels : {1, 5, 63, 64, 65, 272})
    for (const int64_t positions : {1, 33}) {
      const auto predicted = randomValues(positions * channels, 9), target = randomValues(positions * channels, 10);
      auto errors = output(positions);
      std::vector<float> want(errors.size() - 1);
      const FeatureErrors kernel{predicted.data(), target.data(), positions, channels, errors.data()};
      runGrid(kernel);
      featureError(*processor(), predicted.data(), target.data(), positions, channels, want.data());
      checkClose(errors, want, 1e-5);
    }
}

TEST_CASE("grid: Mahalanobis distances and their gradient, a Gaussian a position and one for all") {
  for (const bool pooled : {true, false})
    for (const int64_t d : {1, 3, 100, 130, 257}) {
      CAPTURE(pooled);
      CAPTURE(d);
      const int64_t images = 2, height = 2, width = 3, positions = height * width;
      std::vector<int32_t> dims(static_cast<size_t>(d));
      std::iota(dims.begin(), dims.end(), 0);
      FeatureGaussian gaussian(GaussianShape{dims, pooled ? 0 : height, pooled ? 0 : width});
      const int64_t groups = gaussian.shape.groups();
      // symmetric, its diagonal large enough for every square to be positive
      const auto values = randomValues(groups * d * d, 11);
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t i = 0; i < d; ++i)
          for (int64_t j = 0; j <= i; ++j)
            gaussian.precision.data()[(g * d + i) * d + j] = gaussian.precision.data()[(g * d + j) * d + i] =
                values[static_cast<size_t>((g * d + i) * d + j)] * 0.1f +
                (i == j ? static_cast<float>(d) * 0.1f + 1 : 0);
      const auto mean = randomValues(groups * d, 12), weights = randomValues(positions, 13);
      std::copy(mean.begin(), mean.end(), gaussian.mean.data());
      auto features = randomValues(images * positions * d, 14);
      // the third position of the first image lies at the mean: distance and gradient 0
      std::copy_n(mean.begin() + (pooled ? 0 : 2 * d), d, features.begin() + 2 * d);
      std::vector<float> want(static_cast<size_t>(images * positions)), wantGradient(features.size());
      mahalanobis(*processor(), gaussian, features.data(), images, positions, want.data(), weights.data(),
                  wantGradient.data());
      for (const bool withGradient : {true, false}) {
        auto distances = output(images * positions), gradient = output(images * positions * d);
        const MahalanobisPositions kernel{gaussian.mean.data(),
                                          gaussian.precision.data(),
                                          pooled,
                                          d,
                                          features.data(),
                                          images,
                                          positions,
                                          distances.data(),
                                          weights.data(),
                                          withGradient ? gradient.data() : nullptr};
        runGrid(kernel);
        checkClose(distances, want, 1e-5);
        CHECK(distances[2] == 0.0f);
        if (withGradient) checkClose(gradient, wantGradient, 1e-5);
      }
    }
}

TEST_CASE("grid: a feature that is no number gives a distance that is none; a tiny negative square gives 0") {
  const float mean[2] = {0, 0}, features[4] = {kNan, 1, 1, 1}, weight = 1;
  auto distances = output(2);
  const float identity[4] = {1, 0, 0, 1}, negative[4] = {-1e-6f, 0, 0, 0};
  const MahalanobisPositions nan{mean, identity, true, 2, features, 2, 1, distances.data(), &weight, nullptr};
  runGrid(nan);
  CHECK(std::isnan(distances[0]));
  CHECK(distances[1] == doctest::Approx(std::sqrt(2.0)));
  auto gradient = output(4);
  const MahalanobisPositions below{mean,    negative,       true, 2, features + 2, 1, 1, distances.data(),
                                   &weight, gradient.data()};
  runGrid(below);
  CHECK(distances[0] == 0.0f);
  CHECK(gradient[0] == 0.0f);
  CHECK(gradient[1] == 0.0f);
}
