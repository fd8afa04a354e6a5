// Golden files of kind "score": features, both maps by scale, and the ensemble (11).
#include "backbone/stored_features.h"
#include "base/error.h"
#include "file/checkpoint/checkpoint.h"
#include "graph/parameters.h"
#include "score/image/pixels.h"
#include "score/image/resize.h"
#include "score/score_pass.h"
#include "verify/compare.h"
#include "verify/golden_spec.h"
#include "verify/verify.h"

namespace ddad {
namespace {

constexpr double kTolerance = 1e-3;
constexpr int64_t kTopPixels = 64;

/// A model's configuration that says what the spec says.
nlohmann::json modelConfig(const nlohmann::json& spec, const std::vector<int64_t>& strides, int64_t channels) {
  nlohmann::json unet = spec.at("config");
  unet["featureChannels"] = channels;
  return {{"unet", unet},
          {"diffusion", {{"schedule", spec.at("schedule")}, {"steps", spec.at("diffusionSteps")}}},
          {"features", {{"strides", strides}}},
          {"score",
           {{"scales", spec.at("scales")},
            {"scaleIndexing", spec.at("scaleIndexing")},
            {"respacing", spec.at("respacing")},
            {"normalization", spec.at("normalization")},
            {"alpha", spec.at("alpha")}}},
          {"calibration", spec.value("calibration", nlohmann::json())}};
}

}  // namespace

void verifyScore(VerifyContext& context) {
  const SafetensorsFile& file = context.file;
  const nlohmann::json& spec = context.spec;
  Comparison& compare = context.comparison;
  for (const char* name : {"x0", "noise", "y", "param.*", "feature_mean", "feature_std"}) compare.input(name);
  if (spec.value("smoothing", 0.0) != 0.0)
    throw Error("ERR_MODEL_FORMAT", file.path() + ": smoothing: expected 0, got " + spec.at("smoothing").dump());

  const std::vector<int64_t> strides = tapStrides(context);
  FeatureSource features = openFeatures(*openTensorSource(context.backbonePath), "", {strides});
  const int64_t featureChannels = features.channels();
  const ScoreConfig config = ScoreConfig::fromJson(modelConfig(spec, strides, featureChannels));
  if (config.normalization != Normalization::kPerImage) {  // the published numbers compare the features as they come
    const int64_t shape[] = {featureChannels};
    file.readFloats("feature_mean", shape, features.mean.data());
    file.readFloats("feature_std", shape, features.std.data());
  }
  const UNet net = buildUNet(config.unet);
  checkParameters(net.graph, file, "param.");
  ParameterBlock parameters(AlignedBuffer(net.graph.parameterFloats()));
  readParameters(net.graph, file, "param.", parameters.values.data());

  const std::vector<int64_t> shape = file.get("x0").shape;  // [N, C, H, W]
  if (shape.size() != 4 || shape[1] != config.unet.inChannels)
    throw Error("ERR_MODEL_FORMAT", file.path() + ": x0: expected [N, " + std::to_string(config.unet.inChannels) +
                                        ", H, W], got " + shapeText(shape));
  const int64_t n = shape[0], c = shape[1], h = shape[2], w = shape[3], pixels = h * w;
  const auto scales = static_cast<int64_t>(config.steps.size());
  ScorePass pass(context.device, net, config, parameters, &features, n, h, w);
  pass.prepare();

  const auto x0 = toNhwc(file.floats("x0"), n, c, pixels);
  const std::vector<float> stored = file.floats("noise");  // [scales, N, C, H, W]
  const std::vector<int32_t> labels = file.find("y") ? file.ints("y") : std::vector<int32_t>();
  if (static_cast<int64_t>(stored.size()) != scales * n * c * pixels ||
      (config.unet.numClasses > 0 && static_cast<int64_t>(labels.size()) != n))
    throw Error("ERR_MODEL_FORMAT", file.path() + ": noise or y: expected one for each scale and sample");
  const auto image = static_cast<size_t>(c * pixels);
  std::vector<float> noise(stored.size());
  for (int64_t s = 0; s < scales; ++s) {
    const size_t from = static_cast<size_t>(s * n) * image;
    const auto one = toNhwc({stored.data() + from, static_cast<size_t>(n) * image}, n, c, pixels);
    for (int64_t i = 0; i < n; ++i)
      std::copy_n(one.data() + static_cast<size_t>(i) * image, image,
                  noise.data() + static_cast<size_t>(i * scales + s) * image);
  }
  std::vector<uint32_t> samples(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(x0.data() + static_cast<size_t>(i) * image, image, pass.image(i));
    if (!labels.empty()) pass.setLabel(i, labels[static_cast<size_t>(i)]);
  }
  UploadBuffer upload(context.device, static_cast<int64_t>(noise.size()));
  const float* const noiseOnDevice = upload.upload(noise.data(), static_cast<int64_t>(noise.size()));
  pass.run(samples.data(), context.cancel, noiseOnDevice);

  const int64_t gh = pass.gridHeight(), gw = pass.gridWidth();
  const int64_t featureShape[] = {n, featureChannels, gh, gw};
  std::vector<float> raw;
  for (int64_t i = 0; i < n; ++i) {
    const float* of = pass.features(i);
    raw.insert(raw.end(), of, of + gh * gw * featureChannels);
  }
  for (size_t i = 0; i < raw.size(); ++i) {  // the file has them before their normalisation
    const size_t channel = i % static_cast<size_t>(featureChannels);
    raw[i] = raw[i] * features.std[channel] + features.mean[channel];
  }
  compare.check("features", toNchw(raw, n, featureChannels, gh * gw), featureShape, kTolerance);
  const auto mapSize = static_cast<size_t>(pixels);
  std::vector<float> kl, errors(static_cast<size_t>(scales * n) * mapSize), pixelMap, featureMap, map, score;
  DeviceBuffer nats(context.device, c * pixels);
  for (int64_t s = 0; s < scales; ++s)
    for (int64_t i = 0; i < n; ++i) {
      const StepCoefficients k = stepCoefficients(config.schedule, config.steps[static_cast<size_t>(s)]);
      NoiseSource source;
      source.values = noiseOnDevice + (i * scales + s) * c * pixels;
      variationalMap(context.device, {1, pixels, static_cast<int>(c)}, {pass.xStart(i), 0}, pass.output(i, s), &k,
                     &source, true, false, nats.data());
      const auto planes = toNchw(hostCopy(context.device, nats.data(), nats.size()), 1, c, pixels);
      kl.insert(kl.end(), planes.begin(), planes.end());
      resizeBilinear(1, pass.featureErrors(i, s), gw, gh, errors.data() + static_cast<size_t>(s * n + i) * mapSize, w,
                     h);
    }
  for (int64_t i = 0; i < n; ++i) {
    std::vector<float> one(pass.map(i), pass.map(i) + pixels);
    const std::vector<float> feature(pass.featureMap(i), pass.featureMap(i) + pixels);
    pixelMap.insert(pixelMap.end(), one.begin(), one.end());
    featureMap.insert(featureMap.end(), feature.begin(), feature.end());
    combineMaps(config, one, feature);
    map.insert(map.end(), one.begin(), one.end());
    score.push_back(static_cast<float>(meanOfLargest(one, kTopPixels)));
  }
  const int64_t klShape[] = {scales, n, c, h, w}, errorShape[] = {scales, n, 1, h, w}, mapShape[] = {n, 1, h, w},
                scoreShape[] = {n};
  compare.check("kl_map_nats", std::span<const float>(kl), klShape, kTolerance);
  compare.check("feature_map_per_scale", std::span<const float>(errors), errorShape, kTolerance);
  compare.check("pixel_map", std::span<const float>(pixelMap), mapShape, kTolerance);
  compare.check("feature_map", std::span<const float>(featureMap), mapShape, kTolerance);
  compare.check("map", std::span<const float>(map), mapShape, kTolerance);
  compare.check("score", std::span<const float>(score), scoreShape, kTolerance);
}

}  // namespace ddad
