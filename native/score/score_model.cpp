#include "score/score_model.h"

#include <algorithm>
#include <list>

#include "backbone/stored_features.h"
#include "base/error.h"
#include "file/digest.h"
#include "file/json_fields.h"
#include "graph/parameters.h"
#include "score/model_file.h"
#include "score/score_request.h"

namespace ddad {
namespace {

std::string evidenceName(size_t label, const std::string& part) {
  return "evidence." + std::to_string(label) + "." + part;
}

/// A tensor [rows, columns] of the file; `rows` or `columns` 0: as many as it has. Throws ERR_MODEL_FORMAT.
std::vector<float> readMatrix(const SafetensorsFile& file, const std::string& name, int64_t rows, int64_t columns) {
  const TensorEntry* entry = file.find(name);
  if (!entry || entry->shape.size() != 2 || entry->shape[0] < 1 || entry->shape[0] > kMaxResiduals ||
      (rows > 0 && entry->shape[0] != rows) || entry->shape[1] != columns)
    throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name + ": expected a matrix of " + std::to_string(columns) +
                                        " columns, got " + (entry ? nlohmann::json(entry->shape).dump() : "none"));
  std::vector<float> values(static_cast<size_t>(entry->count()));
  file.readFloats(name, entry->shape, values.data());
  return values;
}

/// The lower halves of the precisions, row by row: they are symmetric.
std::vector<float> lowerHalves(const FeatureGaussian& gaussian) {
  const int64_t d = gaussian.shape.size();
  std::vector<float> halves;
  halves.reserve(static_cast<size_t>(gaussian.shape.groups() * d * (d + 1) / 2));
  for (int64_t g = 0; g < gaussian.shape.groups(); ++g)
    for (int64_t i = 0; i < d; ++i) {
      const float* row = gaussian.precision.data() + (g * d + i) * d;
      halves.insert(halves.end(), row, row + i + 1);
    }
  return halves;
}

/// The Gaussians of places over `channels` features, as `save` writes them.
template <class Name>
std::shared_ptr<const FeatureGaussian> readPlaces(const SafetensorsFile& file, const Name& name, int64_t channels) {
  const std::vector<float> mean = readMatrix(file, name("place_mean"), 0, channels);
  const int64_t places = static_cast<int64_t>(mean.size()) / channels;
  const std::vector<float> halves = readMatrix(file, name("place_precision"), places, channels * (channels + 1) / 2);
  auto gaussian = std::make_shared<FeatureGaussian>(placeShape(places, channels));
  std::copy(mean.begin(), mean.end(), gaussian->mean.data());
  const float* from = halves.data();
  for (int64_t g = 0; g < places; ++g)
    for (int64_t i = 0; i < channels; ++i) {
      if (!(from[i] > 0))
        throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name("place_precision") + ": expected positive diagonals");
      for (int64_t j = 0; j <= i; ++j, ++from) {
        float* matrix = gaussian->precision.data() + g * channels * channels;
        matrix[i * channels + j] = matrix[j * channels + i] = *from;
      }
    }
  return gaussian;
}

std::string text(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? std::string() : found->second;
}

std::string gaussianName(size_t label, const char* part) { return "padim." + std::to_string(label) + "." + part; }

/// `padim` of a configuration, which says what the Gaussians are over; no channels where there are none.
GaussianShape gaussianShape(const nlohmann::json& config, int64_t channels) {
  GaussianShape shape;
  const auto padim = config.find("padim");
  if (padim == config.end() || padim->is_null()) return shape;
  if (!padim->is_object())
    throw Error("ERR_CONFIG", "padim: expected an object or null, got " + padim->dump().substr(0, 80));
  const auto list = padim->find("channels");
  bool known =
      list != padim->end() && list->is_array() && !list->empty() && static_cast<int64_t>(list->size()) <= channels;
  int64_t last = -1;
  for (size_t i = 0; known && i < list->size(); ++i) {
    const nlohmann::json& channel = (*list)[i];
    known = channel.is_number_integer() && channel.get<int64_t>() > last && channel.get<int64_t>() < channels;
    if (!known) break;
    last = channel.get<int64_t>();
    shape.dims.push_back(static_cast<int32_t>(last));
  }
  if (!known)
    throw Error("ERR_CONFIG", "padim.channels: expected some of the " + std::to_string(channels) +
                                  " channels of the features, ascending");
  const auto grid = padim->find("grid");
  if (grid == padim->end() || grid->is_null()) return shape;
  if (!grid->is_array() || grid->size() != 2)
    throw Error("ERR_CONFIG", "padim.grid: expected [height, width] or null, got " + grid->dump().substr(0, 80));
  for (const auto& [at, side] : {std::pair{0, &shape.gridHeight}, {1, &shape.gridWidth}}) {
    const nlohmann::json& value = (*grid)[static_cast<size_t>(at)];
    if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > 4096)
      throw Error("ERR_CONFIG", "padim.grid: expected 1 to 4096 positions a side, got " + value.dump().substr(0, 80));
    *side = value.get<int64_t>();
  }
  return shape;
}

}  // namespace

ScoreModel::ScoreModel(nlohmann::json config)
    : json_(std::move(config)),
      configs_(readScoreConfigs(json_)),
      net_(buildUNet(configs_[0].unet)),
      parameters_{AlignedBuffer(net_.graph.parameterFloats()), AlignedBuffer()} {}

std::unique_ptr<ScoreModel> ScoreModel::load(const std::string& path, const std::string& content) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  if (!content.empty())
    if (const std::string actual = contentDigest(file); actual != content)
      throw Error("ERR_SIGNATURE", path + ": expected the content that was signed, " + content + ", got " + actual +
                                       ": the file has been changed since");
  DigestCheck check(file);
  std::unique_ptr<ScoreModel> model;
  try {
    model = read(file);
  } catch (const Error&) {
    check.rethrowUnlessDamaged();
  }
  check.finish();
  model->origin_ = {check.stated(), text(file, kSignatureKey), text(file, kSignatureKeyKey)};
  return model;
}

std::unique_ptr<ScoreModel> ScoreModel::read(const SafetensorsFile& file) {
  std::unique_ptr<ScoreModel> model;
  try {
    nlohmann::json config = readModelConfig(file, {"model"});
    // Before anything is allocated for it: a configuration may ask for far more than the file has.
    checkParameters(buildUNet(UNetConfig::fromJson(requireObject(config, "unet"))).graph, file, "");
    model = std::make_unique<ScoreModel>(std::move(config));
  } catch (const Error& e) {
    if (e.code() != "ERR_CONFIG") throw;
    throw Error("ERR_MODEL_FORMAT", file.path() + ": its configuration is not valid: " + e.what());
  }
  readParameters(model->net_.graph, file, "", model->parameters_.values.data());
  const ScoreConfig& config = model->config();
  if (config.features) model->setFeatures(readFeatures(file, config.features));
  model->readMemories(file);
  model->readGaussians(file);
  model->readEvidence(file);
  return model;
}

void ScoreModel::save(const std::string& path, const nlohmann::json& config) const {
  std::vector<TensorToWrite> tensors;
  appendParameters(net_.graph, "", parameters_.values.data(), tensors);
  std::map<std::string, std::string> metadata = {{"format", "ddad-native"},
                                                 {"formatVersion", formatVersion(config)},
                                                 {"kind", "model"},
                                                 {"config", config.dump()}};
  if (features_) appendFeatures(*features_, tensors, metadata);
  for (size_t label = 0; label < memories_.size(); ++label) {
    const ResidualMemory& m = memories_[label];
    if (m.count() > 0)
      tensors.push_back({memoryName(static_cast<int>(label)), DType::kF32, {m.count(), m.channels()}, m.rows()});
  }
  const bool hasPlaces =
      std::any_of(evidence_.begin(), evidence_.end(), [](const auto& e) { return e.places != nullptr; });
  const std::vector<ScoreConfig> written = hasPlaces ? readScoreConfigs(config) : std::vector<ScoreConfig>();
  std::list<std::vector<float>> halves;  // lives until the tensors are written
  for (size_t label = 0; label < evidence_.size(); ++label) {
    const FeatureEvidence& e = evidence_[label];
    if (e.banks.empty()) continue;
    const auto add = [&](const std::string& part, int64_t rows, int64_t columns, const float* values) {
      tensors.push_back({evidenceName(label, part), DType::kF32, {rows, columns}, values});
    };
    const auto channels = static_cast<int64_t>(e.mean.size()), image = e.image.size();
    add("mean", 1, channels, e.mean.data());
    add("std", 1, channels, e.std.data());
    for (size_t bank = 0; bank < e.banks.size(); ++bank)
      add("bank" + std::to_string(bank), e.banks[bank].count(), e.banks[bank].channels(), e.banks[bank].rows());
    if (image > 0) {
      add("image_mean", 1, image, e.image.mean.data());
      add("image_std", 1, image, e.image.std.data());
      add("image_whitening", image, image, e.image.whitening.data());
    }
    if (!e.places || written[std::min(label, written.size() - 1)].evidence.placeStride == 0) continue;
    const int64_t places = e.places->shape.groups(), d = e.places->shape.size();
    halves.push_back(lowerHalves(*e.places));
    add("place_mean", places, d, e.places->mean.data());
    add("place_precision", places, d * (d + 1) / 2, halves.back().data());
  }
  for (size_t label = 0; label < gaussians_.size(); ++label) {
    if (!gaussians_[label]) continue;
    const FeatureGaussian& g = *gaussians_[label];
    const int64_t groups = g.shape.groups(), d = g.shape.size();
    tensors.push_back({gaussianName(label, "mean"), DType::kF32, {groups, d}, g.mean.data()});
    tensors.push_back({gaussianName(label, "precision"), DType::kF32, {groups, d, d}, g.precision.data()});
  }
  writeSafetensors(path, metadata, tensors);
}

void ScoreModel::setConfig(const nlohmann::json& json) {
  std::vector<ScoreConfig> next = readScoreConfigs(json);
  const FeatureConfig &before = config().features, &after = next[0].features;
  if (json.at("unet") != json_.at("unet"))
    throw Error("ERR_CONFIG", "unet: expected the network that the model has; its structure cannot change");
  if (after.strides != before.strides || after.scale != before.scale || after.depth != before.depth)
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

void ScoreModel::setEvidence(int label, FeatureEvidence evidence) {
  checkLabel(label);
  const auto at = static_cast<size_t>(std::max(label, 0));
  if (evidence_.size() <= at) evidence_.resize(at + 1);
  evidence_[at] = std::move(evidence);
}

const FeatureEvidence* ScoreModel::evidence(int label) const {
  const auto at = static_cast<size_t>(std::max(label, 0));
  return at < evidence_.size() && !evidence_[at].banks.empty() ? &evidence_[at] : nullptr;
}

void ScoreModel::readEvidence(const SafetensorsFile& file) {
  if (!features_) return;
  const EvidenceLayout layout(*features_);
  for (int label = 0; label < labels(); ++label) {
    const EvidenceConfig& config = this->config(label).evidence;
    if (!config) continue;
    const auto name = [&](const std::string& part) { return evidenceName(static_cast<size_t>(label), part); };
    FeatureEvidence evidence;
    evidence.mean = readMatrix(file, name("mean"), 1, layout.channels);
    evidence.std = readMatrix(file, name("std"), 1, layout.channels);
    for (size_t bank = 0; bank < config.banks.size(); ++bank) {
      const int64_t channels = layout.range(config.banks[bank]).second;
      const std::vector<float> rows = readMatrix(file, name("bank" + std::to_string(bank)), 0, channels);
      evidence.banks.emplace_back(rows.data(), static_cast<int64_t>(rows.size()) / channels, channels);
    }
    if (config.image) {
      const int64_t size = 2 * layout.channels;
      evidence.image.mean = readMatrix(file, name("image_mean"), 1, size);
      evidence.image.std = readMatrix(file, name("image_std"), 1, size);
      evidence.image.whitening = readMatrix(file, name("image_whitening"), size, size);
    }
    if (config.placeStride > 0) evidence.places = readPlaces(file, name, layout.range({config.placeStride}).second);
    for (const std::vector<float>* stds : {&evidence.std, &evidence.image.std})
      for (const float s : *stds)
        if (!(s > 0)) throw Error("ERR_MODEL_FORMAT", file.path() + ": evidence: expected positive deviations");
    setEvidence(label, std::move(evidence));
  }
}

int64_t ScoreModel::evidenceBytes() const {
  int64_t bytes = 0;
  for (const FeatureEvidence& evidence : evidence_) bytes += evidence.bytes();
  return bytes;
}

void ScoreModel::setGaussian(int label, std::shared_ptr<const FeatureGaussian> gaussian) {
  if (!features_) throw Error("ERR_CONFIG", "features: expected a model with features, which a Gaussian is over");
  checkLabel(label);
  const auto at = static_cast<size_t>(std::max(label, 0));
  if (gaussians_.size() <= at) gaussians_.resize(at + 1);
  for (auto& other : gaussians_)
    if (other && other->shape != gaussian->shape) other.reset();
  gaussians_[at] = std::move(gaussian);
}

std::shared_ptr<const FeatureGaussian> ScoreModel::gaussian(int label) const {
  const auto at = static_cast<size_t>(std::max(label, 0));
  return at < gaussians_.size() ? gaussians_[at] : nullptr;
}

void ScoreModel::readGaussians(const SafetensorsFile& file) {
  GaussianShape shape;
  try {
    shape = gaussianShape(json_, features_ ? features_->channels() : 0);
  } catch (const Error& e) {
    throw Error("ERR_MODEL_FORMAT", file.path() + ": its configuration is not valid: " + e.what());
  }
  if (shape.dims.empty()) return;
  const int64_t groups = shape.groups(), d = shape.size();
  const int64_t meanShape[] = {groups, d}, precisionShape[] = {groups, d, d};
  for (int64_t label = 0; label < labels(); ++label) {
    const std::string mean = gaussianName(static_cast<size_t>(label), "mean"),
                      precision = gaussianName(static_cast<size_t>(label), "precision");
    file.checkShape(mean, meanShape);  // before anything is allocated for what the configuration says
    file.checkShape(precision, precisionShape);
    const auto gaussian = std::make_shared<FeatureGaussian>(shape);
    file.readFloats(mean, meanShape, gaussian->mean.data());
    file.readFloats(precision, precisionShape, gaussian->precision.data());
    setGaussian(static_cast<int>(label), gaussian);
  }
}

void ScoreModel::checkRequest(const ScoreRequest& r) const {
  const auto refuse = [](const std::string& why) { throw Error("ERR_IMAGE", "image: " + why); };
  if (r.data == nullptr || r.width < 1 || r.height < 1)
    refuse("expected at least one pixel, got " + std::to_string(r.width) + " x " + std::to_string(r.height));
  const int64_t channels = config().unet.inChannels;
  if (r.channels != channels)
    refuse("expected " + std::to_string(channels) + " channels, got " + std::to_string(r.channels));
  if (r.type == PixelType::kF32) {
    const auto* values = static_cast<const float*>(r.data);
    const int64_t n = static_cast<int64_t>(r.width) * r.height * r.channels;
    if (!std::all_of(values, values + n, [](float v) { return v >= 0.0f && v <= 1.0f; }))
      refuse("expected float pixels from 0 to 1");
  }
  checkLabel(r.label);
}

void ScoreModel::checkLabel(int label) const {
  const int64_t classes = config().unet.numClasses;
  if (classes > 0 && (label < 0 || label >= classes))
    throw Error("ERR_ARGUMENT",
                "label: expected 0 to " + std::to_string(classes - 1) + ", got " + std::to_string(label));
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

int64_t ScoreModel::gaussianBytes() const {
  int64_t bytes = 0;
  for (const auto& gaussian : gaussians_) bytes += gaussian ? gaussian->bytes() : 0;
  return bytes;
}

}  // namespace ddad
