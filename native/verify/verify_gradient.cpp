// Golden files of kind "gradient-reconstruction": Algorithm 1, with the distance and the gradient of its first step.
#include <algorithm>

#include "base/error.h"
#include "file/checkpoint/checkpoint.h"
#include "file/json_fields.h"
#include "file/safetensors.h"
#include "reverse/gradient_rounds.h"
#include "verify/compare.h"
#include "verify/golden_spec.h"

namespace ddad {
namespace {

constexpr double kTolerance = 1e-3;

/// The Gaussian of the file; its precision is what this program makes of the covariance.
std::shared_ptr<FeatureGaussian> readGaussian(const VerifyContext& context, GaussianShape shape) {
  const SafetensorsFile& file = context.file;
  const int64_t d = shape.size(), positions = shape.groups();
  const int64_t meanShape[] = {d, shape.gridHeight, shape.gridWidth}, matrixShape[] = {positions, d, d};
  for (const char* name : {"mean", "covariance"}) context.comparison.input(name);
  file.checkShape("mean", meanShape);
  file.checkShape("covariance", matrixShape);
  auto gaussian = std::make_shared<FeatureGaussian>(std::move(shape));
  const auto mean = toNhwc(file.floats("mean"), 1, d, positions);
  std::copy(mean.begin(), mean.end(), gaussian->mean.data());
  std::vector<double> matrices = file.doubles("covariance"), scratch(static_cast<size_t>(d * d));
  for (int64_t p = 0; p < positions; ++p) invertSymmetric(matrices.data() + p * d * d, d, scratch.data());
  context.comparison.check("precision", std::span<const double>(matrices), matrixShape, kTolerance);
  std::transform(matrices.begin(), matrices.end(), gaussian->precision.data(),
                 [](double v) { return static_cast<float>(v); });
  return gaussian;
}

/// What the spec asks for in ways that this program has one of.
void checkSpec(const VerifyContext& context) {
  for (const auto& [name, expected] : {std::pair{"denoise", "mean"}, {"std", "n - 1"}})
    if (context.spec.value(name, expected) != expected)
      throw Error("ERR_MODEL_FORMAT", context.file.path() + ": " + name + ": expected \"" + expected + "\", got " +
                                          context.spec.at(name).dump().substr(0, 80));
}

}  // namespace

void verifyGradient(VerifyContext& context) {
  const nlohmann::json& spec = context.spec;
  Comparison& compare = context.comparison;
  checkSpec(context);
  GoldenNet golden = goldenNet(context);
  const ImagesShape shape = imagesShape(context, "x0", golden.config.inChannels);
  FeatureSource features = openFeatures(*openTensorSource(context.backbonePath), "", {tapStrides(context), 1, 1.0});
  compare.input("dims");
  const auto gaussian = readGaussian(context, {context.file.ints("dims"), shape.h / 4, shape.w / 4});

  ReverseSettings settings;
  settings.schedule = specSchedule(context);
  settings.clip = booleanField(spec, "clipDenoised", true);
  GradientSettings rounds;
  rounds.gradientSteps = static_cast<int>(integerField(spec, "gradientSteps", 1, 1000));
  rounds.stepSize = numberField(spec, "lr", 0, 1, rounds.stepSize);
  rounds.denoiseStep = static_cast<int>(integerField(spec, "denoiseStep", 0, settings.schedule.steps() - 1));
  const int64_t count = integerField(spec, "rounds", 1, 100000);
  const std::vector<int64_t> trajectoryShape = {count, shape.n, shape.c, shape.h, shape.w};
  context.file.checkShape("trajectory", trajectoryShape);  // before the work
  ReverseChain chain(context.device, golden.net, golden.parameters, settings, shape.n, shape.h, shape.w);
  FeatureDistance distance(context.device, features, gaussian->shape.dims, shape.n, shape.h, shape.w, true);
  GradientRounds algorithm(context.device, chain, distance, gaussian, rounds, shape.n, shape.elements(), shape.c);
  const std::vector<int32_t> labels = goldenLabels(context, golden.config, shape.n);
  for (size_t i = 0; i < labels.size(); ++i) chain.setLabel(static_cast<int64_t>(i), labels[i]);
  const auto x0 = goldenImages(context, "x0", shape);
  std::copy(x0.begin(), x0.end(), chain.image(0));
  chain.upload();

  const auto planes = [&](const float* onDevice) {
    return toNchw(hostCopy(context.device, onDevice, shape.n * shape.elements()), shape.n, shape.c, shape.pixels());
  };
  const auto check = [&](const char* name, const std::vector<float>& values, std::vector<int64_t> dims) {
    compare.check(name, std::span<const float>(values), dims, kTolerance);
  };
  std::vector<float> trajectory;
  for (int64_t round = 0; round < count; ++round) {
    for (int step = 0; step < rounds.gradientSteps; ++step) {
      algorithm.gradientStep(context.cancel);
      if (round > 0 || step > 0) continue;
      std::vector<float> loss;
      for (int64_t i = 0; i < shape.n; ++i) loss.push_back(static_cast<float>(distance.loss(i)));
      check("distance", {distance.distances(0), distance.distances(0) + shape.n * distance.positions()},
            {shape.n, 1, distance.gridHeight(), distance.gridWidth()});
      check("loss", loss, {shape.n});
      check("grad.x0", planes(algorithm.gradient(0)), shape.dims());
    }
    if (round == 0) check("after_gradient_steps", planes(chain.imageOnDevice(0)), shape.dims());
    algorithm.denoise(context.cancel);
    const std::vector<float> x = planes(chain.imageOnDevice(0));
    trajectory.insert(trajectory.end(), x.begin(), x.end());
  }
  check("trajectory", trajectory, trajectoryShape);
  check("out", planes(chain.imageOnDevice(0)), shape.dims());
}

}  // namespace ddad
