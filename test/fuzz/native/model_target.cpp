// Model files, up to scoring a small image with what loads.
#include <algorithm>

#include "device/device.h"
#include "device/open_device.h"
#include "file/json_fields.h"
#include "score/scorer.h"
#include "support.h"
#include "unet/config.h"
#include "unet/unet.h"

namespace ddad::fuzz {
namespace {

constexpr int64_t kMostFloats = int64_t{1} << 20;  // of parameters: larger models take time, not other ways
constexpr int64_t kMostWork = int64_t{1} << 13;    // scales times pixels of the padded image

/// Scores an image of 9 x 5 pixels, unless the network or its padding make that slow.
void scoreSmall(Scorer& scorer) {
  const nlohmann::json& config = scorer.config();
  const UNetConfig unet = UNetConfig::fromJson(config.at("unet"));
  const nlohmann::json features = config.value("features", nlohmann::json());
  const int64_t scale = features.is_object() ? features.value("scale", int64_t{1}) : 1;
  const int64_t side = std::max<int64_t>(16, (int64_t{1} << (unet.channelMult.size() - 1)) * scale);
  const auto scales = static_cast<int64_t>(config.at("score").at("scales").size());
  if (scales * side * side > kMostWork) return;
  const std::vector<uint8_t> pixels(size_t{9} * 5 * 4, 100);
  ScoreRequest request;
  request.data = pixels.data();
  request.width = 9;
  request.height = 5;
  request.channels = static_cast<int>(unet.inChannels);
  request.label = unet.numClasses > 0 ? 0 : -1;
  request.residuals = true;
  mayFail({"ERR_CONFIG", "ERR_NUMERIC", "ERR_IMAGE", "ERR_ARGUMENT"}, [&] { scorer.score(request, Cancel()); });
}

void load(const MemoryFile& file) {
  static const auto device = openDevice("cpu", 1);
  mayFail({"ERR_MODEL_FORMAT"}, [&] {
    const auto scorer = Scorer::load(device, file.path());
    scorer->config().dump();
    scorer->memory();
    scoreSmall(*scorer);
  });
}

std::map<std::string, std::string> metadataOf(const std::string& config) {
  return {{"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "model"}, {"config", config}};
}

/// One Gaussian of two channels for all places, of the first label.
void appendGaussian(std::vector<SeedTensor>& tensors) {
  tensors.push_back({"padim.0.mean", {1, 2}, {}});
  tensors.push_back({"padim.0.precision", {1, 2, 2}, {}});
}

nlohmann::json gaussianConfig() {
  nlohmann::json config = tinyConfig(true);
  config["padim"] = {{"channels", {0, 3}}, {"grid", nullptr}};
  config["score"]["kind"] = "padim";
  return config;
}

std::string modelFile(const nlohmann::json& config) {
  std::vector<SeedTensor> tensors = tinyModel(config, {""});
  if (config.contains("padim")) appendGaussian(tensors);
  if (config.contains("features"))
    tensors.push_back({"residual_memory.0", {2, config.at("unet").at("featureChannels")}, {}});
  return seedFile(metadataOf(config.dump()), tensors);
}

void run(std::string_view input) {
  static MemoryFile file("model");
  openInput(file, input);
  load(file);
}

std::vector<std::string> seeds() {
  return {modelFile(tinyConfig(false)), modelFile(tinyConfig(true)), modelFile(gaussianConfig())};
}

/// A configuration alone: the file that it asks for is made to fit, so that most of what is valid loads and scores.
void runConfigured(std::string_view input) {
  static MemoryFile file("model");
  const nlohmann::json config = parseJson(input);
  if (!config.is_object()) return;
  std::vector<SeedTensor> tensors;
  const bool built = mayFail({"ERR_CONFIG"}, [&] {
    const UNetConfig unet = UNetConfig::fromJson(requireObject(config, "unet"));
    const UNet net = buildUNet(unet);
    if (net.graph.parameterFloats() > kMostFloats) return;
    append(net.graph, "", tensors);
    for (SeedTensor& t : tinyBackbone("backbone.", true)) tensors.push_back(std::move(t));
    const auto channels = std::max<int64_t>(1, unet.featureChannels);
    tensors.push_back({"feature_mean", {channels}, {}});
    tensors.push_back({"feature_std", {channels}, std::vector<float>(static_cast<size_t>(channels), 1.0f)});
    appendGaussian(tensors);
    for (int64_t label = 0; label < std::clamp<int64_t>(unet.numClasses, 1, 4); ++label)
      tensors.push_back({"residual_memory." + std::to_string(label), {2, channels}, {}});
  });
  if (!built || tensors.empty()) return;
  openInput(file, seedFile(metadataOf(config.dump()), tensors));
  load(file);
}

std::vector<std::string> configuredSeeds() {
  nlohmann::json odd = tinyConfig(true), classes = tinyConfig(false);
  odd["features"] = {{"strides", {2, 4, 8, 16}}, {"scale", 2}};
  odd["unet"]["featureChannels"] = tinyFeatures({2, 4, 8, 16});
  odd["unet"]["resblockUpdown"] = true;
  odd["unet"]["attentionResolutions"] = {2, 4};
  odd["score"] = {{"scales", {5}}, {"normalization", "per-image"}, {"smoothing", 1.5}};
  classes["unet"]["numClasses"] = 3;
  classes["unet"]["numHeads"] = 4;
  classes["unet"]["useNewAttentionOrder"] = true;
  classes["score"]["topPixels"] = {{"count", 3}};
  std::vector<std::string> texts;
  for (const auto& config : {tinyConfig(false), tinyConfig(true), odd, classes, gaussianConfig()})
    texts.push_back(config.dump());
  return texts;
}

const Registered registered({"model", Format::kSafetensors, run, seeds});
const Registered configured({"model_config", Format::kJson, runConfigured, configuredSeeds});

}  // namespace
}  // namespace ddad::fuzz
