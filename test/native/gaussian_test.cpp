// The Gaussian of features: fitted in one pass, inverted, its distance and the distance's gradient by the image.
#include <algorithm>
#include <cmath>

#include "backbone/feature_distance.h"
#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "file/checkpoint/checkpoint.h"
#include "random_values.h"
#include "small_model.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

/// Covariance of rows [n][d] by the definition, in two passes.
std::vector<double> covarianceOf(const std::vector<std::vector<float>>& rows) {
  const size_t n = rows.size(), d = rows[0].size();
  std::vector<double> mean(d), covariance(d * d);
  for (const auto& row : rows)
    for (size_t i = 0; i < d; ++i) mean[i] += static_cast<double>(row[i]) / static_cast<double>(n);
  for (const auto& row : rows)
    for (size_t i = 0; i < d; ++i)
      for (size_t j = 0; j < d; ++j)
        covariance[i * d + j] += (static_cast<double>(row[i]) - mean[i]) * (static_cast<double>(row[j]) - mean[j]) /
                                 static_cast<double>(n - 1);
  for (size_t i = 0; i < d; ++i) covariance[i * d + i] += kCovarianceFloor;
  return covariance;
}

std::vector<float> features(RandomValues& random, int64_t count, float offset) {
  std::vector<float> values;
  for (double v : random.normal(count)) values.push_back(static_cast<float>(v) + offset);
  return values;
}

/// Largest difference of precision * covariance from the identity.
double identityError(const float* precision, const std::vector<double>& covariance, size_t d) {
  double worst = 0;
  for (size_t i = 0; i < d; ++i)
    for (size_t j = 0; j < d; ++j) {
      double sum = i == j ? -1.0 : 0.0;
      for (size_t k = 0; k < d; ++k) sum += static_cast<double>(precision[i * d + k]) * covariance[k * d + j];
      worst = !(std::abs(sum) <= worst) ? std::abs(sum) : worst;
    }
  return worst;
}

}  // namespace

TEST_CASE("the Gaussian of one pass is that of two, at each place and for all of them") {
  // float32 precisions of entries up to about 2: products within 1e-5 of the identity. The offset of 300 would cost a
  // sum of squares in float32 all its digits.
  const auto device = openDevice("cpu", 2);
  const int64_t d = 5, positions = 6, images = 40;
  for (const bool pooled : {false, true}) {
    CAPTURE(pooled);
    RandomValues random(3);
    const GaussianShape shape{{0, 1, 2, 3, 4}, pooled ? 0 : 2, pooled ? 0 : 3};
    GaussianFit fit(shape);
    std::vector<std::vector<std::vector<float>>> rows(pooled ? 1 : static_cast<size_t>(positions));
    for (int64_t n = 0; n < images; ++n) {
      const auto image = features(random, positions * d, 300.0f);
      fit.add(*device, image.data(), positions);
      for (int64_t p = 0; p < positions; ++p)
        rows[pooled ? 0 : static_cast<size_t>(p)].emplace_back(image.begin() + p * d, image.begin() + (p + 1) * d);
    }
    const auto gaussian = fit.finish(*device);
    for (size_t group = 0; group < rows.size(); ++group)
      CHECK(identityError(gaussian->precision.data() + group * d * d, covarianceOf(rows[group]), d) <= 1e-4);
    double mean = 0;
    for (const auto& row : rows[0]) mean += static_cast<double>(row[0]) / static_cast<double>(rows[0].size());
    CHECK(std::abs(static_cast<double>(gaussian->mean.data()[0]) - mean) <= 1e-4);
  }
}

TEST_CASE("a pooled Gaussian does not depend on the threads") {
  RandomValues random(5);
  const auto image = features(random, 64 * 20, 1.0f);
  GaussianShape shape;
  for (int32_t i = 0; i < 20; ++i) shape.dims.push_back(i);
  std::vector<std::vector<float>> found;
  for (int threads : {1, 2, 3}) {
    const auto device = openDevice("cpu", threads);
    GaussianFit fit(shape);
    fit.add(*device, image.data(), 40);
    fit.add(*device, image.data() + 40 * 20, 24);
    const auto gaussian = fit.finish(*device);
    found.emplace_back(gaussian->precision.data(), gaussian->precision.data() + gaussian->precision.size());
  }
  CHECK(found[0] == found[1]);
  CHECK(found[0] == found[2]);
}

TEST_CASE("what no Gaussian can be made of is refused") {
  const auto device = openDevice("cpu", 1);
  GaussianFit fit({{0, 1}, 1, 1});
  const float one[] = {1.0f, 2.0f};
  fit.add(*device, one, 1);
  CHECK(codeOf([&] { fit.finish(*device); }) == "ERR_NUMERIC");
  CHECK(codeOf([&] { fit.add(*device, one, 2); }) == "ERR_ARGUMENT");
  const float broken[] = {1.0f, NAN};
  fit.add(*device, broken, 1);
  CHECK(codeOf([&] { fit.finish(*device); }) == "ERR_NUMERIC");
  CHECK(codeOf([] { GaussianFit({{}, 1, 1}); }) == "ERR_ARGUMENT");
  GaussianShape vast;
  for (int32_t i = 0; i < 4000; ++i) vast.dims.push_back(i);
  vast.gridHeight = vast.gridWidth = 4000;
  CHECK(codeOf([&] { GaussianFit{vast}; }) == "ERR_MEMORY");
}

TEST_CASE("a seed chooses channels") {
  const auto some = chooseChannels(1, 192, 100);
  CHECK(some.size() == 100);
  CHECK(std::adjacent_find(some.begin(), some.end(), std::greater_equal<>()) == some.end());
  CHECK(some.front() >= 0);
  CHECK(some.back() < 192);
  CHECK(some == chooseChannels(1, 192, 100));
  CHECK(some != chooseChannels(2, 192, 100));
  CHECK(chooseChannels(9, 7, 7) == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6});
  CHECK(codeOf([] { chooseChannels(0, 7, 8); }) == "ERR_ARGUMENT");
}

TEST_CASE("the gradient of the distance agrees with finite differences, for gray and for colour") {
  const auto device = openDevice("cpu", 2);
  FeatureSource source = openFeatures(*openTensorSource(packagedBackbone()), "", {{2, 4, 16}, 1, 1.0});
  RandomValues random(11);
  for (size_t c = 0; c < source.mean.size(); ++c) {
    source.mean[c] = 0.1f * static_cast<float>(c % 7);
    source.std[c] = 1.0f + 0.2f * static_cast<float>(c % 5);
  }
  const std::vector<int32_t> dims = {2, 15, 20, 39, 60, 149};  // of each tap
  const int64_t h = 16, w = 32, positions = (h / 4) * (w / 4), d = 6;
  auto gaussian = FeatureGaussian({dims, h / 4, w / 4});
  for (int64_t i = 0; i < gaussian.mean.size(); ++i) gaussian.mean.data()[i] = 0.05f * static_cast<float>(i % 11);
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j < d; ++j)
        gaussian.precision.data()[(p * d + i) * d + j] = i == j ? 2.0f + 0.1f * static_cast<float>(p) : 0.2f;
  for (const int64_t channels : {1, 3}) {
    CAPTURE(channels);
    FeatureDistance distance(*device, source, dims, 2, h, w, true);
    const int64_t elements = h * w * channels;
    std::vector<float> images = features(random, 2 * elements, 0.0f), gradient(images.size());
    for (float& v : images) v *= 0.3f;
    const Cancel never;
    distance.run(gaussian, images.data(), channels, never);
    distance.gradient(channels, gradient.data(), never);
    // Along the gradient itself, where the slope (20 to 30 here) is largest against float32's rounding: a loss of about
    // 5 is known to 1e-6 of it, so the slope to 0.005; the kinks of ReLU6 that lie within the step cost up to 0.032 of
    // it.
    for (int64_t image = 0; image < 2; ++image) {
      const float* g = gradient.data() + image * elements;
      double squares = 0;
      for (int64_t i = 0; i < elements; ++i) squares += static_cast<double>(g[i]) * static_cast<double>(g[i]);
      const double length = std::sqrt(squares), step = 1e-3;
      const auto lossAt = [&](double along) {
        std::vector<float> moved = images;
        for (int64_t i = 0; i < elements; ++i)
          moved[static_cast<size_t>(image * elements + i)] +=
              static_cast<float>(along * static_cast<double>(g[i]) / length);
        distance.run(gaussian, moved.data(), channels, never);
        return distance.loss(image);
      };
      const double slope = (lossAt(step) - lossAt(-step)) / (2 * step);
      CHECK(length > 0);
      CHECK(std::abs(slope - length) <= 0.05 * length);
    }
  }
}

TEST_CASE("a distance of zero has no gradient") {
  const auto device = openDevice("cpu", 1);
  FeatureGaussian gaussian({{0, 1}, 0, 0});
  gaussian.precision.data()[0] = gaussian.precision.data()[3] = 1.0f;
  const float at[] = {0, 0, 3, 4};
  const float weights[] = {0.5f, 0.5f};
  float distances[2], gradient[4];
  mahalanobis(*device, gaussian, at, 1, 2, distances, weights, gradient);
  CHECK(distances[0] == 0.0f);
  CHECK(distances[1] == doctest::Approx(5.0));
  CHECK(gradient[0] == 0.0f);
  CHECK(gradient[1] == 0.0f);
  CHECK(gradient[2] == doctest::Approx(0.3));
  CHECK(gradient[3] == doctest::Approx(0.4));
}
