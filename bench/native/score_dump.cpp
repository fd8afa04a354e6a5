#include "score_dump.h"

#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>
#include <vector>

#include "backbone/stored_features.h"
#include "base/error.h"
#include "device/open_device.h"
#include "graph/parameters.h"
#include "score/image/pixels.h"
#include "score/score_pass.h"
#include "score/scorer.h"

namespace ddad::bench {
namespace {

/// The model's configuration with other noise steps, nothing normalised.
nlohmann::json rawConfig(const SafetensorsFile& file, const char* steps) {
  nlohmann::json config = nlohmann::json::parse(file.metadata().at("config"));
  config["score"]["scales"] = nlohmann::json::parse("[" + std::string(steps) + "]");
  config["score"]["normalization"] = "none";
  config["calibration"] = nullptr;
  return config;
}

std::vector<uint8_t> readPixels(const std::string& path, size_t count) {
  std::vector<uint8_t> pixels(count);
  std::ifstream in(path, std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(count)))
    throw Error("ERR_FILE_READ", path + ": expected " + std::to_string(count) + " bytes");
  return pixels;
}

}  // namespace

int runScoreDump(const char* model, const char* steps) try {
  const SafetensorsFile file = SafetensorsFile::open(model);
  const ScoreConfig config = ScoreConfig::fromJson(rawConfig(file, steps));
  const UNet net = buildUNet(config.unet);
  ParameterBlock parameters{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  readParameters(net.graph, file, "", parameters.values.data());
  FeatureSource features;
  if (config.features) features = readFeatures(file, config.features);
  const auto device = openDevice("cpu", 0);
  const int64_t scale = config.features.scale;
  const int64_t unit = std::lcm(scale << net.graph.maxLevel(), config.features ? features.unit() : 1);
  const auto scales = static_cast<int64_t>(config.steps.size());
  ScoreMemory memory;
  std::unique_ptr<ScorePass> pass;
  int64_t width, height;
  std::string image, out;
  while (std::cin >> width >> height >> image >> out) {
    const int64_t h = (height + unit - 1) / unit * (unit / scale), w = (width + unit - 1) / unit * (unit / scale);
    if (!pass || pass->height() != h || pass->width() != w) {
      pass.reset();
      pass = std::make_unique<ScorePass>(*device, net, config, parameters, config.features ? &features : nullptr, 1, h,
                                         w, &memory);
      pass->prepare();
    }
    const auto pixels = readPixels(image, static_cast<size_t>(width * height));
    ScoreRequest request;
    request.data = pixels.data();
    request.width = static_cast<int>(width);
    request.height = static_cast<int>(height);
    request.channels = 1;
    normalizePixels(request, {0, 0, width, height}, pass->imageHeight(), pass->imageWidth(), pass->image(0));
    const uint32_t sample = 0;
    pass->run(&sample, Cancel());
    std::vector<TensorToWrite> tensors = {{"kl", DType::kF32, {scales, h, w}, pass->kl(0, 0)}};
    if (config.features) {
      const int64_t gh = pass->gridHeight(), gw = pass->gridWidth(), c = features.channels();
      tensors.push_back({"features", DType::kF32, {gh, gw, c}, pass->features(0)});
      tensors.push_back({"predicted", DType::kF32, {scales, gh, gw, c}, pass->plan().value(net.features)});
    }
    writeSafetensors(out, {}, tensors);
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}

}  // namespace ddad::bench
