// Features of the pretrained backbone: taps on one grid, their loss and its gradient, and the way through a file.
#include "backbone/features.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "backbone/stored_features.h"
#include "base/error.h"
#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "random_values.h"
#include "score/image/pixels.h"
#include "score/image/resize.h"
#include "score/score_pass.h"
#include "score_helpers.h"
#include "small_model.h"
#include "train/trainer.h"
#include "unet/initialize.h"
#include "unet/unet.h"

using namespace ddad;
using ddad::testing::codeOf;
using ddad::testing::featureModel;
using ddad::testing::featureScorer;
using ddad::testing::packagedBackbone;
using ddad::testing::picture;
using ddad::testing::randomValues;

namespace {

struct TempFile {
  std::string path = (std::filesystem::temp_directory_path() / ("ddad-features-" + std::to_string(getpid()))).string();
  ~TempFile() { std::filesystem::remove(path); }
};

FeatureSource packaged(const std::vector<int64_t>& strides) {
  return openFeatures(SafetensorsFile::open(packagedBackbone()), "", {strides});
}

/// Value of a tap at a place between its positions, corners not aligned, in double.
double bilinear(const float* tap, const Shape& shape, int64_t image, int64_t channel, double y, double x) {
  const auto at = [&](double row, double column) {
    const auto r = static_cast<int64_t>(std::clamp(row, 0.0, static_cast<double>(shape.h - 1)));
    const auto c = static_cast<int64_t>(std::clamp(column, 0.0, static_cast<double>(shape.w - 1)));
    return static_cast<double>(tap[((image * shape.h + r) * shape.w + c) * shape.c + channel]);
  };
  y = std::max(0.0, y);
  x = std::max(0.0, x);
  const double fy = y - std::floor(y), fx = x - std::floor(x);
  return (1 - fy) * ((1 - fx) * at(std::floor(y), std::floor(x)) + fx * at(std::floor(y), std::floor(x) + 1)) +
         fy * ((1 - fx) * at(std::floor(y) + 1, std::floor(x)) + fx * at(std::floor(y) + 1, std::floor(x) + 1));
}

}  // namespace

TEST_CASE("features are the taps, resized to the stride-4 grid and normalised") {
  const auto device = openDevice("cpu", 2);
  for (const std::vector<int64_t>& strides : {std::vector<int64_t>{2, 4, 8, 16}, {4}, {2, 16}}) {
    FeatureSource source = packaged(strides);
    const int64_t channels = source.channels(), h = 48, w = 32;
    for (int64_t c = 0; c < channels; ++c) {
      source.mean[static_cast<size_t>(c)] = 0.1f * static_cast<float>(c % 7);
      source.std[static_cast<size_t>(c)] = 0.5f + 0.1f * static_cast<float>(c % 5);
    }
    FeatureExtractor extractor(*device, source, 2, h, w);
    const auto gray = randomValues(2 * h * w, 1);
    std::vector<float> rgb;
    for (float v : gray) rgb.insert(rgb.end(), 3, v);
    std::vector<float> out(static_cast<size_t>(2 * extractor.positions() * channels)), same(out);
    extractor.run(gray.data(), 1, out.data(), Cancel());
    extractor.run(rgb.data(), 3, same.data(), Cancel());
    CHECK(out == same);  // gray is repeated to three channels

    double worst = 0;
    int64_t offset = 0;
    for (const Backbone::Tap& tap : source.taps) {
      const Shape& shape = extractor.plan().shape(tap.tensor);
      CHECK(shape.h == h >> tap.level);
      for (int64_t i = 0; i < 2; ++i)
        for (int64_t y = 0; y < h / 4; ++y)
          for (int64_t x = 0; x < w / 4; ++x)
            for (int64_t k = 0; k < tap.channels; ++k) {
              const double scale = 4.0 / static_cast<double>(int64_t{1} << tap.level);
              const double raw =
                  bilinear(extractor.plan().value(tap.tensor), shape, i, k,
                           (static_cast<double>(y) + 0.5) * scale - 0.5, (static_cast<double>(x) + 0.5) * scale - 0.5);
              const auto c = static_cast<size_t>(offset + k);
              const double expected = (raw - static_cast<double>(source.mean[c])) / static_cast<double>(source.std[c]);
              const int64_t at = ((i * (h / 4) + y) * (w / 4) + x) * channels + offset + k;
              const double diff = std::abs(static_cast<double>(out[static_cast<size_t>(at)]) - expected);
              if (!(diff <= worst)) worst = diff;
            }
      offset += tap.channels;
    }
    CHECK(worst <= 2e-5);  // a few roundings of values around 10
  }
}

TEST_CASE("the feature loss is a mean of squares, and its gradient that of finite differences") {
  const auto device = openDevice("cpu", 2);
  const int64_t samples = 3, elements = 5000;  // more than a piece
  auto predicted = randomValues(samples * elements, 2);
  const auto target = randomValues(samples * elements, 3);
  std::vector<float> gradient(predicted.size()), scratch(predicted.size());
  std::vector<double> losses(3), moved(3);
  const double weight = 0.7;
  featureLoss(*device, predicted.data(), target.data(), samples, elements, weight, losses.data(), gradient.data());
  for (int64_t i = 0; i < samples; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < elements; ++k) {
      const auto at = static_cast<size_t>(i * elements + k);
      sum += std::pow(static_cast<double>(predicted[at]) - static_cast<double>(target[at]), 2);
    }
    const double diff = std::abs(losses[static_cast<size_t>(i)] * static_cast<double>(elements) / sum - 1);
    CHECK(diff <= 1e-5);  // sums of up to 4096 squares in float32, in whatever order the build adds them
  }
  for (const size_t at : {size_t{0}, size_t{4095}, size_t{4096}, size_t{5000}, size_t{14999}}) {
    const float before = predicted[at];
    double total[2];
    for (int side = 0; side < 2; ++side) {
      predicted[at] = before + (side ? 0.5f : -0.5f);
      featureLoss(*device, predicted.data(), target.data(), samples, elements, weight, moved.data(), scratch.data());
      total[side] = weight * (moved[0] + moved[1] + moved[2]) / static_cast<double>(samples);
    }
    predicted[at] = before;
    const double diff = std::abs(total[1] - total[0] - static_cast<double>(gradient[at]));
    CHECK(diff <= 1e-3 * std::abs(static_cast<double>(gradient[at])) + 1e-9);  // a quadratic: exact but for rounding
  }

  std::vector<float> errors(static_cast<size_t>(samples * 50));
  featureError(*device, predicted.data(), target.data(), samples * 50, 100, errors.data());
  double mean = 0;
  for (int i = 0; i < 50; ++i) mean += static_cast<double>(errors[static_cast<size_t>(i)]) / 50;
  CHECK(std::abs(mean / losses[0] - 1) <= 1e-5);
}

TEST_CASE("the gradient of the feature loss by every weight agrees with finite differences") {
  const auto device = openDevice("cpu", 2);
  const auto json = featureModel(16, 2);
  const UNet net = buildUNet(UNetConfig::fromJson(json.at("unet")));
  const int64_t floats = net.graph.parameterFloats();
  ParameterBlock block{AlignedBuffer(floats), AlignedBuffer(floats)};
  initializeUNet(net, 5, block.values.data());
  // so that no branch starts at zero, where its weights have no gradient
  const auto shake = randomValues(floats, 4);
  for (int64_t i = 0; i < floats; ++i) block.values.data()[i] += 0.1f * shake[static_cast<size_t>(i)];
  PlanOptions options;
  options.batch = 2;
  options.height = options.width = 16;
  options.training = true;
  Plan plan(*device, net.graph, options, block);
  const auto pixels = randomValues(plan.shape(net.x).size(), 6);
  const Shape& shape = plan.shape(net.features);
  CHECK(shape.h == 4);
  const int64_t elements = shape.size() / 2;
  const auto target = randomValues(shape.size(), 7);
  std::vector<double> losses(2);
  const auto loss = [&] {
    // backward takes the memory of the inputs for its own
    std::copy(pixels.begin(), pixels.end(), plan.value(net.x));
    plan.value(net.t)[0] = 20;
    plan.value(net.t)[1] = 700;
    plan.prepare();
    plan.forward(Cancel());
    featureLoss(*device, plan.value(net.features), target.data(), 2, elements, 1.0, losses.data(),
                plan.gradient(net.features));
    return (losses[0] + losses[1]) / 2;
  };
  loss();
  std::fill_n(plan.gradient(net.out), plan.shape(net.out).size(), 0.0f);
  plan.backward(Cancel());
  const std::vector<float> gradients(block.gradients.data(), block.gradients.data() + floats);
  int checked = 0;
  double largest = 0;
  for (const ParamSpec& p : net.graph.params()) {
    // along the gradient of one parameter the loss changes by its squared norm
    double squares = 0;
    for (int64_t i = 0; i < p.size(); ++i) {
      const auto g = static_cast<double>(gradients[static_cast<size_t>(p.offset + i)]);
      squares += g * g;
    }
    largest = std::max(largest, squares);
    if (squares < 1e-8) continue;  // what the head does not see, or a bias before a norm
    CAPTURE(p.name);
    const double step = 2e-3 / std::sqrt(squares);
    const std::vector<float> before(block.values.data() + p.offset, block.values.data() + p.offset + p.size());
    double total[2];
    for (int side = 0; side < 2; ++side) {
      for (int64_t i = 0; i < p.size(); ++i)
        block.values.data()[p.offset + i] =
            before[static_cast<size_t>(i)] +
            static_cast<float>((side ? step : -step) *
                               static_cast<double>(gradients[static_cast<size_t>(p.offset + i)]));
      total[side] = loss();
    }
    std::copy(before.begin(), before.end(), block.values.data() + p.offset);
    const double diff = std::abs((total[1] - total[0]) / (2 * step) - squares);
    // float32 losses of about 1 carry some 1e-7, over a step of 2e-3 along the unit gradient
    CHECK(diff <= 0.02 * squares + 3e-4 * std::sqrt(squares));
    ++checked;
  }
  CHECK(checked > 30);
  CHECK(largest > 1e-3);
}

TEST_CASE("with a scale the UNet sees means of the image, and the backbone all of it") {
  const auto device = openDevice("cpu", 2);
  auto json = featureModel(16, 2);
  json["features"]["scale"] = 2;
  const ScoreConfig config = ScoreConfig::fromJson(json);
  const UNet net = buildUNet(config.unet);
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
  initializeUNet(net, 3, block.values.data());
  FeatureSource source = openFeatures(SafetensorsFile::open(packagedBackbone()), "", config.features);
  ScorePass pass(*device, net, config, block, &source, 1, 16, 24);
  pass.prepare();
  REQUIRE(pass.imageHeight() == 32);
  REQUIRE(pass.imageWidth() == 48);
  const auto image = randomValues(32 * 48, 11);
  std::copy(image.begin(), image.end(), pass.image(0));
  const uint32_t sample = 0;
  pass.run(&sample, Cancel());

  for (int64_t y = 0; y < 16; ++y)
    for (int64_t x = 0; x < 24; ++x) {
      double mean = 0;
      for (int64_t k = 0; k < 4; ++k)
        mean += static_cast<double>(image[static_cast<size_t>((2 * y + k / 2) * 48 + 2 * x + k % 2)]) / 4;
      const double diff = std::abs(mean - static_cast<double>(pass.xStart(0)[y * 24 + x]));
      CHECK(diff <= 1e-6);
    }
  std::vector<float> features(static_cast<size_t>(4 * 6 * source.channels()));
  FeatureExtractor whole(*device, source, 1, 32, 48);
  REQUIRE(whole.positions() == 4 * 6);  // the stride-4 grid of what the UNet sees
  whole.run(image.data(), 1, features.data(), Cancel());
  CHECK(std::equal(features.begin(), features.end(), pass.features(0)));

  // the maps have the size of the image; without normalisation they are the mean over the scales, resized
  std::vector<float> mean(16 * 24), resized(32 * 48);
  for (size_t p = 0; p < mean.size(); ++p) mean[p] = 0.5f * pass.kl(0, 0)[p] + 0.5f * pass.kl(0, 1)[p];
  resizeBilinear(1, mean.data(), 24, 16, resized.data(), 48, 32);
  double worst = 0;
  for (size_t p = 0; p < resized.size(); ++p) {
    const double diff = std::abs(static_cast<double>(resized[p]) - static_cast<double>(pass.map(0)[p]));
    if (!(diff <= worst)) worst = diff;
  }
  CHECK(worst <= 1e-5 * static_cast<double>(*std::max_element(resized.begin(), resized.end())));

  // training takes the same batches
  Trainer trainer(openDevice("cpu", 2), json, packagedBackbone());
  CHECK(trainer.batchFloats() == 2 * 32 * 32);
  const auto pixels = randomValues(trainer.batchFloats(), 12);
  trainer.observe(pixels.data(), Cancel());
  CHECK(std::isfinite(trainer.step(pixels.data(), nullptr, 1e-3, Cancel()).feature));
  std::vector<float> reduced(2 * 16 * 16);
  reduceImages(pixels.data(), 2, 16, 16, 1, 2, reduced.data());
  CHECK(reduced[0] == doctest::Approx((pixels[0] + pixels[1] + pixels[32] + pixels[33]) / 4));
  CHECK(reduced[256] == doctest::Approx((pixels[1024] + pixels[1025] + pixels[1056] + pixels[1057]) / 4));
}

TEST_CASE("places are normalised by their own mean and deviation, before smoothing") {
  auto config = featureModel(16, 2);
  Trainer trainer(openDevice("cpu", 2), config, packagedBackbone());
  auto scorer = trainer.toScorer(config);
  std::vector<uint8_t> image(32 * 32);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint8_t>(i * 31 % 253);
  ScoreRequest request;
  request.data = image.data();
  request.width = request.height = 32;
  request.channels = 1;
  const ScoreResult raw = scorer->score(request, Cancel());
  config["score"]["normalization"] = "calibration";
  config["calibration"] = {{"pixelMean", raw.pixel.mean},
                           {"pixelStd", raw.pixel.std},
                           {"featureMean", raw.feature.mean},
                           {"featureStd", raw.feature.std}};
  scorer->setConfig(config);
  const ScoreResult plain = scorer->score(request, Cancel());
  config["calibration"]["position"] = {{"width", 2},
                                       {"height", 1},
                                       {"pixelMean", {0.5, 1.5}},
                                       {"pixelStd", {2.0, 4.0}},
                                       {"featureMean", {-1.0, 0.0}},
                                       {"featureStd", {0.5, 1.0}}};
  scorer->setConfig(config);
  const ScoreResult placed = scorer->score(request, Cancel());
  for (const size_t row : {size_t{0}, size_t{31}})
    for (const auto& [column, share] : {std::pair{size_t{0}, 0.0f}, {size_t{15}, 15.0f / 32}, {size_t{31}, 1.0f}}) {
      const size_t at = row * 32 + column;
      CHECK(placed.pixelMap[at] ==
            doctest::Approx((plain.pixelMap[at] - 0.5f - share) / (2 + 2 * share)).epsilon(1e-4));
      CHECK(placed.featureMap[at] ==
            doctest::Approx((plain.featureMap[at] + 1 - share) / (0.5f + 0.5f * share)).epsilon(1e-4));
    }
  config["score"]["smoothing"] = 2;
  scorer->setConfig(config);
  std::vector<float> smooth = placed.pixelMap;
  gaussianBlur(2, smooth, 32, 32, 2);
  CHECK(scorer->score(request, Cancel()).pixelMap == smooth);

  const auto refused = [&](const char* key, const nlohmann::json& value) {
    auto broken = config;
    broken["calibration"]["position"][key] = value;
    return codeOf([&] { scorer->setConfig(broken); });
  };
  CHECK(refused("pixelStd", {1.0, 0.0}) == "ERR_CONFIG");
  CHECK(refused("featureMean", {1.0}) == "ERR_CONFIG");
  CHECK(refused("width", 0) == "ERR_CONFIG");
}

TEST_CASE("features come back from a file as they were") {
  const auto device = openDevice("cpu", 1);
  FeatureSource source = packaged({2, 4, 8});
  for (float& m : source.mean) m = 0.25f;
  for (float& s : source.std) s = 2.0f;
  const TempFile file;
  std::vector<TensorToWrite> tensors;
  std::map<std::string, std::string> metadata;
  appendFeatures(source, tensors, metadata);
  writeSafetensors(file.path, metadata, tensors);
  FeatureSource back = readFeatures(SafetensorsFile::open(file.path), {{2, 4, 8}});
  const auto image = randomValues(32 * 32, 8);
  std::vector<float> one(8 * 8 * 80), two(one);
  FeatureExtractor(*device, source, 1, 32, 32).run(image.data(), 1, one.data(), Cancel());
  FeatureExtractor(*device, back, 1, 32, 32).run(image.data(), 1, two.data(), Cancel());
  CHECK(one == two);
  FeatureSource copy = copyFeatures(source);
  FeatureExtractor(*device, copy, 1, 32, 32).run(image.data(), 1, two.data(), Cancel());
  CHECK(one == two);
  // a tap that the file does not reach, and a deviation that would divide by zero
  CHECK(codeOf([&] { readFeatures(SafetensorsFile::open(file.path), {{2, 16}}); }) == "ERR_MODEL_FORMAT");
  source.std[3] = 0.0f;
  tensors.clear();
  appendFeatures(source, tensors, metadata);
  writeSafetensors(file.path, metadata, tensors);
  CHECK(codeOf([&] { readFeatures(SafetensorsFile::open(file.path), {{2, 4, 8}}); }) == "ERR_MODEL_FORMAT");
}

TEST_CASE("channel statistics") {
  ChannelStatistics statistics(2);
  const float rows[] = {1, 5, 3, 5, 5, 5, 7, 5};
  statistics.add(rows, 3);
  statistics.add(rows + 6, 1);
  std::vector<float> mean(2), std(2);
  statistics.finish(mean, std);
  CHECK(mean[0] == doctest::Approx(4.0));
  CHECK(std[0] == doctest::Approx(std::sqrt(5.0)));
  CHECK(mean[1] == doctest::Approx(5.0));
  CHECK(std[1] == 1.0f);  // never varies
}

TEST_CASE("strides that make no sense are refused") {
  for (const nlohmann::json& strides : {nlohmann::json(nullptr), nlohmann::json::array(), nlohmann::json({3}),
                                        nlohmann::json({4, 2}), nlohmann::json({4, 4}), nlohmann::json("all")})
    CHECK(codeOf([&] { FeatureConfig::fromJson({{"features", {{"strides", strides}}}}); }) == "ERR_CONFIG");
  CHECK(!FeatureConfig::fromJson({{"features", nullptr}}));
  CHECK(FeatureConfig::fromJson({{"features", {{"strides", {2, 8}}}}}).strides == std::vector<int64_t>{2, 8});
}

TEST_CASE("training with features lowers their loss, and goes on from a checkpoint bit for bit") {
  const auto config = featureModel(16, 2);
  Trainer whole(openDevice("cpu", 2), config, packagedBackbone()),
      first(openDevice("cpu", 2), config, packagedBackbone());
  const auto pixels = randomValues(whole.batchFloats(), 9);
  const auto step = [&](Trainer& trainer) { return trainer.step(pixels.data(), nullptr, 2e-3, Cancel()); };
  for (Trainer* trainer : {&whole, &first}) {
    trainer->observe(pixels.data(), Cancel());
    trainer->observe(pixels.data(), Cancel());
  }
  const StepResult start = step(whole);
  CHECK(start.feature > 0.5);  // normalised features have variance 1, the head starts near 0
  CHECK(std::abs(start.loss - start.mse - start.vb - start.feature) <= 1e-9);
  step(first);
  const TempFile file;
  first.saveCheckpoint(file.path, config);
  // the checkpoint carries the backbone that a resumed run needs
  Trainer second(openDevice("cpu", 2), config, file.path);
  second.loadCheckpoint(file.path);
  StepResult last, resumed;
  for (int i = 0; i < 25; ++i) {
    last = step(whole);
    resumed = step(second);
  }
  CHECK(last.feature < 0.7 * start.feature);
  CHECK(last.loss == resumed.loss);
  CHECK(codeOf([&] { whole.observe(pixels.data(), Cancel()); }) == "ERR_ARGUMENT");
  CHECK(codeOf([&] { Trainer(openDevice("cpu", 1), config); }) == "ERR_CONFIG");
  CHECK(codeOf([&] { Trainer(openDevice("cpu", 1), config, "/nowhere"); }) == "ERR_FILE_READ");
  auto narrow = config;
  narrow["unet"]["featureChannels"] = 64;
  CHECK(codeOf([&] { Trainer(openDevice("cpu", 1), narrow, packagedBackbone()); }) == "ERR_CONFIG");
  narrow["unet"]["featureChannels"] = 0;
  CHECK(codeOf([&] { Trainer(openDevice("cpu", 1), narrow, packagedBackbone()); }) == "ERR_CONFIG");
}

TEST_CASE("both scores have maps, alpha weighs them, and the model file carries everything") {
  auto config = featureModel(16, 2);
  auto scorer = featureScorer(config);
  const auto image = picture(45, 37);
  const ScoreRequest request = ddad::testing::request(image, 45, 37);
  const ScoreResult raw = scorer->score(request, Cancel());
  CHECK(raw.featureMap.size() == image.size());
  CHECK(raw.feature.mean.size() == 2);
  config["score"]["normalization"] = "calibration";
  config["calibration"] = {{"pixelMean", raw.pixel.mean}, {"pixelStd", raw.pixel.std}};
  CHECK(codeOf([&] { scorer->setConfig(config); }) == "ERR_CONFIG");  // no statistics of the features
  config["calibration"]["featureMean"] = raw.feature.mean;
  config["calibration"]["featureStd"] = raw.feature.std;
  for (const double alpha : {0.0, 0.25, 1.0}) {
    config["score"]["alpha"] = alpha;
    scorer->setConfig(config);
    const ScoreResult r = scorer->score(request, Cancel());
    double worst = 0;
    for (size_t i = 0; i < r.map.size(); ++i) {
      const double expected =
          alpha * static_cast<double>(r.pixelMap[i]) + (1 - alpha) * static_cast<double>(r.featureMap[i]);
      const double diff = std::abs(expected - static_cast<double>(r.map[i]));
      if (!(diff <= worst)) worst = diff;
    }
    CHECK(worst <= 1e-5);
  }
  const TempFile file;
  scorer->save(file.path, config);
  const auto loaded = Scorer::load(openDevice("cpu", 1), file.path);
  CHECK(loaded->score(request, Cancel()).map == scorer->score(request, Cancel()).map);
  auto other = config;
  other["features"]["strides"] = {2, 4};
  CHECK(codeOf([&] { loaded->setConfig(other); }) == "ERR_CONFIG");
  other["features"] = nullptr;
  CHECK(codeOf([&] { loaded->setConfig(other); }) == "ERR_CONFIG");
}
