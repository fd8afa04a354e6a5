// State dicts of the public EfficientNet implementations, narrow ones with random weights: what these compute, and the
// way of such a backbone through models and checkpoints. bench/backbones has what made the fixtures.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "backbone/stored_features.h"
#include "device/open_device.h"
#include "doctest.h"
#include "error_code.h"
#include "file_helpers.h"
#include "graph/plan.h"
#include "random_values.h"
#include "score_helpers.h"
#include "train/trainer.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

using Metadata = std::map<std::string, std::string>;

/// The tensors of a file with other metadata.
class Restyled : public TensorSource {
 public:
  Restyled(const std::string& fixture, Metadata metadata)
      : file_(SafetensorsFile::open(DDAD_SOURCE_DIR "/test/native/fixtures/" + fixture + ".safetensors")),
        metadata_(std::move(metadata)) {}
  const std::string& path() const override { return file_.path(); }
  const Metadata& metadata() const override { return metadata_; }
  const std::vector<int64_t>* findShape(const std::string& name) const override { return file_.findShape(name); }
  void readFloats(const std::string& name, std::span<const int64_t> shape, float* out) const override {
    file_.readFloats(name, shape, out);
  }
  const SafetensorsFile& file() const { return file_; }
  /// A file of its own on disk, as a user would have it.
  void write(const std::string& path) const {
    std::vector<TensorToWrite> tensors;
    for (const TensorEntry& t : file_.tensors()) tensors.push_back({t.name, t.dtype, t.shape, t.data});
    writeSafetensors(path, metadata_, tensors);
  }

 private:
  SafetensorsFile file_;
  Metadata metadata_;
};

/// Two images by the formula of the fixtures, [2, 32, 32, 3].
std::vector<float> fixtureImages() {
  std::vector<float> images;
  for (int n = 0; n < 2; ++n)
    for (int y = 0; y < 32; ++y)
      for (int x = 0; x < 32; ++x)
        for (int c = 0; c < 3; ++c)
          images.push_back((static_cast<float>(((y * 31 + x * 17 + c * 53 + n * 101 + x * y) * 29) % 251) - 127.0f) /
                           128.0f);
  return images;
}

/// The largest relative error of a tap.
double worstError(const Restyled& source, const std::string& expected) {
  Backbone net = loadBackbone(source);
  REQUIRE(net.taps.size() == 4);
  ParameterBlock block{std::move(net.parameters), AlignedBuffer()};
  const auto device = openDevice("cpu", 2);
  Plan plan(*device, net.graph, {2, 32, 32}, block);
  const auto images = fixtureImages();
  std::copy(images.begin(), images.end(), plan.value(net.input));
  plan.prepare();
  plan.forward(Cancel());
  double worst = 0;
  for (const Backbone::Tap& tap : net.taps) {
    const Shape& s = plan.shape(tap.tensor);
    const int64_t shape[] = {s.n, s.c, s.h, s.w};
    std::vector<float> want(static_cast<size_t>(s.size()));
    source.readFloats("expected." + expected + "." + tap.name, shape, want.data());
    double difference = 0, size = 0;
    for (int64_t n = 0; n < s.n; ++n)
      for (int64_t c = 0; c < s.c; ++c)
        for (int64_t p = 0; p < s.h * s.w; ++p) {
          const auto w = static_cast<double>(want[static_cast<size_t>((n * s.c + c) * s.h * s.w + p)]);
          const auto got = static_cast<double>(plan.value(tap.tensor)[(n * s.h * s.w + p) * s.c + c]);
          difference += (got - w) * (got - w);
          size += w * w;
        }
    const double error = std::sqrt(difference / size);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

/// Features of a backbone of the timm fixture: symmetric padding, swish, squeeze-excite.
FeatureSource timmFeatures() { return openFeatures(Restyled("efficientnet-timm", {}), "", {{2, 4, 8}}); }

std::vector<float> featuresOf(FeatureSource& source) {
  const auto device = openDevice("cpu", 2);
  FeatureExtractor extractor(*device, source, 2, 32, 32);
  std::vector<float> out(static_cast<size_t>(2 * extractor.positions() * source.channels()));
  extractor.run(fixtureImages().data(), 3, out.data(), Cancel());
  return out;
}

nlohmann::json timmModel() {
  auto config = featureModel(16, 2);
  config["unet"]["featureChannels"] = timmFeatures().channels();
  return config;
}

}  // namespace

TEST_CASE("state dicts of the public implementations give their features") {
  struct Row {
    const char *fixture, *expected;
    Metadata metadata;
  };
  const Metadata same = {{"paddingMode", "same"}};
  const Row rows[] = {
      {"efficientnet-pytorch", "same", {}},
      {"efficientnet-pytorch",
       "same",
       {{"activationFunction", "swish"}, {"batchNormEps", "1e-3"}, {"paddingMode", "same"}}},
      {"efficientnet-lite-pytorch", "same", {}},
      {"efficientnet-timm", "symmetric", {}},
      {"efficientnet-timm", "same", same},
      {"efficientnet-timm-lite", "symmetric", {}},
      {"efficientnet-timm-lite", "same", same},
  };
  for (const Row& row : rows) {
    CAPTURE(row.fixture);
    CAPTURE(row.expected);
    // float32 sums of some hundred products through eleven blocks, on both sides
    CHECK(worstError(Restyled(row.fixture, row.metadata), row.expected) <= 1e-5);
  }
}

TEST_CASE("padding, activation and epsilon of another family give other features") {
  CHECK(worstError(Restyled("efficientnet-timm", {}), "same") > 0.05);
  CHECK(worstError(Restyled("efficientnet-pytorch", {{"paddingMode", "symmetric"}}), "same") > 0.05);
  CHECK(worstError(Restyled("efficientnet-pytorch", {{"activationFunction", "relu6"}}), "same") > 0.05);
  CHECK(worstError(Restyled("efficientnet-lite-pytorch", {{"activationFunction", "swish"}}), "same") > 0.05);
  CHECK(worstError(Restyled("efficientnet-timm", {{"batchNormEps", "1e-3"}}), "symmetric") > 1e-4);
}

TEST_CASE("metadata that say nothing known are refused") {
  const auto load = [](const Metadata& metadata) {
    return [metadata] { loadBackbone(Restyled("efficientnet-pytorch", metadata)); };
  };
  checkError("ERR_MODEL_FORMAT", {"paddingMode: expected same or symmetric, got valid"},
             load({{"paddingMode", "valid"}}));
  checkError("ERR_MODEL_FORMAT", {"activationFunction: expected relu6 or swish, got gelu"},
             load({{"activationFunction", "gelu"}}));
  for (const char* eps : {"0", "1", "nan", "small", ""})
    checkError("ERR_MODEL_FORMAT", {"batchNormEps: expected a number between 0 and 1"}, load({{"batchNormEps", eps}}));
}

TEST_CASE("a layer of squeeze-excite that is missing or misshapen is refused") {
  const Restyled whole("efficientnet-timm", {});
  const TemporaryFolder folder;
  const auto load = [&](const std::string& name, bool keep) {
    std::vector<TensorToWrite> tensors;
    for (const TensorEntry& t : whole.file().tensors()) {
      if (t.name == name && !keep) continue;
      std::vector<int64_t> shape = t.shape;
      if (t.name == name) std::swap(shape[0], shape[1]);
      tensors.push_back({t.name, t.dtype, shape, t.data});
    }
    writeSafetensors(folder / "changed", {}, tensors);
    return [path = folder / "changed"] { loadBackbone(SafetensorsFile::open(path)); };
  };
  const std::string block = "blocks.1.0.se.conv_";
  checkError("ERR_MODEL_FORMAT", {block + "reduce.bias", "none of that name"}, load(block + "reduce.bias", false));
  checkError("ERR_MODEL_FORMAT", {block + "expand.weight", "none of that name"}, load(block + "expand.weight", false));
  checkError("ERR_MODEL_FORMAT", {block + "reduce.weight: expected"}, load(block + "reduce.weight", true));
  checkError("ERR_MODEL_FORMAT", {"conv_stem"}, load("conv_stem.weight", false));
}

TEST_CASE("features with squeeze-excite come back from a file as they were") {
  FeatureSource source = timmFeatures();
  const TemporaryFolder folder;
  std::vector<TensorToWrite> tensors;
  Metadata metadata;
  appendFeatures(source, tensors, metadata);
  CHECK(metadata == Metadata{{"backbone.paddingMode", "symmetric"}, {"backbone.activationFunction", "swish"}});
  writeSafetensors(folder / "stored", metadata, tensors);
  FeatureSource back = readFeatures(SafetensorsFile::open(folder / "stored"), {{2, 4, 8}}), copy = copyFeatures(source);
  const auto features = featuresOf(source);
  CHECK(featuresOf(back) == features);
  CHECK(featuresOf(copy) == features);

  // into a source of another style, whose plans would compute something else
  writeSafetensors(folder / "other", {{"backbone.paddingMode", "same"}}, tensors);
  CHECK(codeOf([&] { readFeatures(SafetensorsFile::open(folder / "other"), {{2, 4, 8}}, back); }) ==
        "ERR_MODEL_FORMAT");
  CHECK(featuresOf(back) == features);
}

TEST_CASE("a model and its checkpoints carry a backbone with squeeze-excite") {
  const auto config = timmModel();
  const TemporaryFolder folder;
  Restyled("efficientnet-timm", {}).write(folder / "backbone");
  Trainer whole(openDevice("cpu", 2), config, folder / "backbone"),
      first(openDevice("cpu", 2), config, folder / "backbone");
  const auto pixels = randomValues(whole.batchFloats(), 21);
  for (Trainer* trainer : {&whole, &first}) trainer->observe(pixels.data(), Cancel());
  const auto step = [&](Trainer& trainer) { return trainer.step(pixels.data(), nullptr, 1e-3, Cancel()); };
  step(whole);
  step(first);
  first.saveCheckpoint(folder / "checkpoint", config);
  Trainer second(openDevice("cpu", 2), config, folder / "checkpoint");
  second.loadCheckpoint(folder / "checkpoint");
  for (int i = 0; i < 2; ++i) CHECK(step(whole).loss == step(second).loss);

  auto scorer = second.toScorer(config);
  scorer->save(folder / "model", config);
  const auto image = picture(40, 32);
  const ScoreRequest asked = request(image, 40, 32);
  const auto loaded = Scorer::load(openDevice("cpu", 1), folder / "model");
  CHECK(loaded->score(asked, Cancel()).map == scorer->score(asked, Cancel()).map);

  // the same weights in another style are another backbone
  SafetensorsFile stored = SafetensorsFile::open(folder / "model");
  Metadata metadata = stored.metadata();
  CHECK(metadata.at("backbone.paddingMode") == "symmetric");
  metadata["backbone.paddingMode"] = "same";
  std::vector<TensorToWrite> tensors;
  for (const TensorEntry& t : stored.tensors()) tensors.push_back({t.name, t.dtype, t.shape, t.data});
  writeSafetensors(folder / "restyled", metadata, tensors);
  CHECK(Scorer::load(openDevice("cpu", 1), folder / "restyled")->score(asked, Cancel()).map !=
        scorer->score(asked, Cancel()).map);
}

TEST_CASE("the gradient by the image agrees with finite differences") {
  for (const char* fixture : {"efficientnet-pytorch", "efficientnet-timm", "efficientnet-lite-pytorch"}) {
    CAPTURE(fixture);
    Backbone net = loadBackbone(Restyled(fixture, {}));
    ParameterBlock block{std::move(net.parameters), AlignedBuffer()};
    PlanOptions options;
    options.batch = 2;
    options.height = options.width = 32;
    options.training = options.inputGradients = true;
    options.paramGradients = false;
    const auto device = openDevice("cpu", 2);
    Plan plan(*device, net.graph, options, block);
    plan.prepare();
    std::vector<std::vector<float>> directions;
    for (const Backbone::Tap& tap : net.taps)
      directions.push_back(randomValues(plan.shape(tap.tensor).size(), static_cast<uint32_t>(tap.level)));
    const auto images = fixtureImages();
    const auto loss = [&](const std::vector<float>& input) {
      std::copy(input.begin(), input.end(), plan.value(net.input));
      plan.forward(Cancel());
      double sum = 0;
      for (size_t t = 0; t < directions.size(); ++t)
        for (size_t i = 0; i < directions[t].size(); ++i)
          sum += static_cast<double>(directions[t][i]) * static_cast<double>(plan.value(net.taps[t].tensor)[i]);
      return sum;
    };
    loss(images);
    for (size_t t = 0; t < directions.size(); ++t)
      std::copy(directions[t].begin(), directions[t].end(), plan.gradient(net.taps[t].tensor));
    plan.backward(Cancel());
    const std::vector<float> gradient(plan.gradient(net.input), plan.gradient(net.input) + images.size());
    double squares = 0;
    for (float g : gradient) squares += static_cast<double>(g) * static_cast<double>(g);
    REQUIRE(squares > 1e-3);
    // along the gradient the loss changes by its squared norm
    const double step = 1e-3 / std::sqrt(squares);
    double total[2];
    for (int side = 0; side < 2; ++side) {
      std::vector<float> moved = images;
      for (size_t i = 0; i < moved.size(); ++i)
        moved[i] += static_cast<float>((side ? step : -step) * static_cast<double>(gradient[i]));
      total[side] = loss(moved);
    }
    const double slope = (total[1] - total[0]) / (2 * step);
    // a loss of some ten in float32 over a step of 1e-3 along the unit gradient, and the kinks of relu6
    CHECK(std::abs(slope - squares) <= 0.01 * squares);
  }
}
