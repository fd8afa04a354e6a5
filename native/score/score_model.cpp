#include "score/score_model.h"

#include <algorithm>

#include "backbone/stored_features.h"
#include "file/json_fields.h"
#include "ops/parameters.h"
#include "score/model_file.h"
#include "tensor/error.h"

namespace ddad {
ScoreModel::ScoreModel(nlohmann::json config)
    : json_(std::move(config)),
      configs_(readScoreConfigs(json_)),
      net_(buildUNet(configs_[0].unet)),
      parameters_{AlignedBuffer(net_.graph.parameterFloats()), AlignedBuffer()} {}

std::unique_ptr<ScoreModel> ScoreModel::load(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::unique_ptr<ScoreModel> model;
  try {
    nlohmann::json config = readModelConfig(file, {"model"});
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
    if (m.count() > 0)
      tensors.push_back({memoryName(static_cast<int>(label)), DType::kF32, {m.count(), m.channels()}, m.rows()});
  }
  writeSafetensors(path, metadata, tensors);
}

void ScoreModel::setConfig(const nlohmann::json& json) {
  std::vector<ScoreConfig> next = readScoreConfigs(json);
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
    const TensorEntry* entry = findMemory(file, label, features_ ? features_->channels() : 0, config().remembers);
    if (!entry) continue;
    std::vector<float> rows(static_cast<size_t>(entry->count()));
    file.readFloats(entry->name, entry->shape, rows.data());
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
