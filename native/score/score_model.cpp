#include "score/score_model.h"

#include <algorithm>

#include "backbone/stored_features.h"
#include "file/json_fields.h"
#include "ops/parameters.h"
#include "tensor/error.h"

namespace ddad {
namespace {

constexpr int64_t kMaxResiduals = int64_t{1} << 22;  // of a memory

std::string memoryName(size_t label) { return "residual_memory." + std::to_string(label); }

nlohmann::json parseModelConfig(const SafetensorsFile& file) {
  const auto text = [&](const char* key) {
    const auto it = file.metadata().find(key);
    return it == file.metadata().end() ? std::string() : it->second;
  };
  const auto refuse = [&](const std::string& why) { throw Error("ERR_MODEL_FORMAT", file.path() + ": " + why); };
  if (text("format") != "ddad-native")
    refuse("expected a ddad-native model, got a safetensors file without that format in its metadata");
  if (text("formatVersion") != "1")
    refuse("expected format version 1, got \"" + text("formatVersion").substr(0, 20) + "\"");
  if (text("kind") != "model") refuse("expected a model, got a " + text("kind").substr(0, 20));
  nlohmann::json config = parseJson(text("config"));
  if (!config.is_object()) refuse("expected a configuration in the metadata");
  return config;
}

/// One configuration, or one for each product where these have calibrations of their own.
std::vector<ScoreConfig> readConfigs(const nlohmann::json& json) {
  const auto products = json.find("products");
  const auto own = json.find("perProduct");
  const auto present = [&](const auto& it) { return it != json.end() && !it->is_null(); };
  if (!present(products) || !present(own)) return {ScoreConfig::fromJson(json)};
  if (!products->is_array() || products->empty())
    throw Error("ERR_CONFIG", "products: expected an array of names, got " + products->dump().substr(0, 80));
  std::vector<ScoreConfig> configs;
  nlohmann::json one = json;
  one.erase("perProduct");
  for (const nlohmann::json& name : *products) {
    const auto found = name.is_string() && own->is_object() ? own->find(name.get<std::string>()) : own->end();
    if (found == own->end() || !found->is_object())
      throw Error("ERR_CONFIG",
                  "perProduct: expected an entry for each product, none for " + name.dump().substr(0, 80));
    one["calibration"] = found->value("calibration", nlohmann::json());
    configs.push_back(ScoreConfig::fromJson(one));
  }
  const int64_t classes = configs[0].unet.numClasses;
  if (classes != static_cast<int64_t>(configs.size()))
    throw Error("ERR_CONFIG", "unet.numClasses: expected " + std::to_string(configs.size()) +
                                  ", a class for each product, got " + std::to_string(classes));
  return configs;
}

}  // namespace

ScoreModel::ScoreModel(nlohmann::json config)
    : json_(std::move(config)),
      configs_(readConfigs(json_)),
      net_(buildUNet(configs_[0].unet)),
      parameters_{AlignedBuffer(net_.graph.parameterFloats()), AlignedBuffer()} {}

std::unique_ptr<ScoreModel> ScoreModel::load(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::unique_ptr<ScoreModel> model;
  try {
    nlohmann::json config = parseModelConfig(file);
    // Before anything is allocated for it: a configuration may ask for far more than the file has.
    checkParameters(buildUNet(UNetConfig::fromJson(requireObject(config, "unet"))).graph, file, "");
    model = std::make_unique<ScoreModel>(std::move(config));
  } catch (const Error& e) {
    if (e.code() != "ERR_CONFIG") throw;
    throw Error("ERR_MODEL_FORMAT", path + ": its configuration is not valid: " + e.what());
  }
  readParameters(model->net_.graph, file, "", model->parameters_.values.data());
  const ScoreConfig& config = model->config();
  if (config.features) model->setFeatures(readFeatures(file, config.features));
  model->readMemories(file);
  return model;
}

void ScoreModel::save(const std::string& path, const nlohmann::json& config) const {
  std::vector<TensorToWrite> tensors;
  appendParameters(net_.graph, "", parameters_.values.data(), tensors);
  std::map<std::string, std::string> metadata = {
      {"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "model"}, {"config", config.dump()}};
  if (features_) appendFeatures(*features_, tensors, metadata);
  for (size_t label = 0; label < memories_.size(); ++label) {
    const ResidualMemory& m = memories_[label];
    if (m.count() > 0) tensors.push_back({memoryName(label), DType::kF32, {m.count(), m.channels()}, m.rows()});
  }
  writeSafetensors(path, metadata, tensors);
}

void ScoreModel::setConfig(const nlohmann::json& json) {
  std::vector<ScoreConfig> next = readConfigs(json);
  const FeatureConfig &before = config().features, &after = next[0].features;
  if (json.at("unet") != json_.at("unet"))
    throw Error("ERR_CONFIG", "unet: expected the network that the model has; its structure cannot change");
  if (after.strides != before.strides || after.scale != before.scale)
    throw Error("ERR_CONFIG", "features: expected the taps and the scale that the model has; they cannot change");
  configs_ = std::move(next);
  json_ = json;
}

void ScoreModel::setFeatures(FeatureSource source) {
  const int64_t expected = config().unet.featureChannels;
  if (source.channels() != expected)
    throw Error("ERR_MODEL_FORMAT", "unet.featureChannels: the backbone's taps have " +
                                        std::to_string(source.channels()) + " channels, got " +
                                        std::to_string(expected));
  features_ = std::make_unique<FeatureSource>(std::move(source));
}

void ScoreModel::setMemory(int label, ResidualMemory memory) {
  if (!features_) throw Error("ERR_CONFIG", "features: expected a model with features, which residuals are of");
  if (label < 0 || label >= labels())
    throw Error("ERR_ARGUMENT", "label: expected one of the model's classes, got " + std::to_string(label));
  if (memory.count() > kMaxResiduals)
    throw Error("ERR_ARGUMENT", "residuals: expected 1 to " + std::to_string(kMaxResiduals) + " of them, got " +
                                    std::to_string(memory.count()));
  const auto at = static_cast<size_t>(label);
  if (memories_.size() <= at) memories_.resize(at + 1);
  memories_[at] = std::move(memory);
}

void ScoreModel::readMemories(const SafetensorsFile& file) {
  for (int label = 0; label < labels(); ++label) {
    const std::string name = memoryName(static_cast<size_t>(label));
    const TensorEntry* entry = file.find(name);
    if (!entry && !config().remembers) continue;
    if (!entry || !features_ || entry->shape.size() != 2 || entry->shape[0] < 1 || entry->shape[0] > kMaxResiduals ||
        entry->shape[1] != features_->channels())
      throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name + ": expected residuals of the model's features");
    std::vector<float> rows(static_cast<size_t>(entry->shape[0] * entry->shape[1]));
    file.readFloats(name, entry->shape, rows.data());
    setMemory(label, ResidualMemory(rows.data(), entry->shape[0], entry->shape[1]));
  }
}

const ScoreConfig& ScoreModel::config(int label) const {
  const auto at = static_cast<size_t>(std::max(label, 0));
  return at < configs_.size() ? configs_[at] : configs_[0];
}

const ResidualMemory* ScoreModel::memory(int label) const {
  const auto at = static_cast<size_t>(std::max(label, 0));
  return at < memories_.size() && memories_[at].count() > 0 ? &memories_[at] : nullptr;
}

int64_t ScoreModel::labels() const { return std::max<int64_t>(1, config().unet.numClasses); }

int64_t ScoreModel::parameterBytes() const {
  return parameters_.values.bytes() + (features_ ? features_->block.values.bytes() : 0);
}

int64_t ScoreModel::memoryBytes() const {
  int64_t bytes = 0;
  for (const ResidualMemory& memory : memories_) bytes += memory.bytes();
  return bytes;
}

}  // namespace ddad
