#include "score/scorer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <numeric>

#include "backbone/stored_features.h"
#include "file/json_fields.h"
#include "ops/parameters.h"
#include "score/pixels.h"
#include "score/residual_memory.h"
#include "score/score_pass.h"

namespace ddad {
namespace {

constexpr int64_t kMaxResiduals = int64_t{1} << 22;  // of a memory
constexpr size_t kMaxPasses = 4;                     // compiled sizes kept; images of one line mostly have one

/// Mean and variance gathered from parts (Chan et al.).
struct Pooled {
  double count = 0, mean = 0, squares = 0;
  void add(double n, double otherMean, double otherSquares) {
    const double delta = otherMean - mean, total = count + n;
    mean += delta * n / total;
    squares += otherSquares + delta * delta * count * n / total;
    count = total;
  }
  double std() const { return count > 1 ? std::sqrt(squares / (count - 1)) : 0.0; }

  /// Adds the values of a window [rows, columns] of a map whose rows are `stride` apart.
  void add(const float* values, int64_t rows, int64_t columns, int64_t stride) {
    double sum = 0, deviations = 0;
    const auto n = static_cast<double>(rows * columns);
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) sum += static_cast<double>(values[y * stride + x]);
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) {
        const double d = static_cast<double>(values[y * stride + x]) - sum / n;
        deviations += d * d;
      }
    add(n, sum / n, deviations);
  }
};

ScoreResult::Statistics statisticsOf(const std::vector<Pooled>& scales) {
  ScoreResult::Statistics statistics;
  for (const Pooled& p : scales) {
    statistics.mean.push_back(p.mean);
    statistics.std.push_back(p.std());
  }
  statistics.elements = scales.empty() ? 0 : static_cast<int64_t>(scales.front().count);
  return statistics;
}

/// shat^f = (1 - w) shat^f + w times the normalised distance to known residuals.
void mixDistances(const ScoreConfig& config, const std::vector<float>& distances, std::vector<float>& feature) {
  const double w = config.memoryWeight;
  for (size_t p = 0; p < feature.size(); ++p) {
    const double distance = (static_cast<double>(distances[p]) - config.memoryMean) / config.memoryStd;
    feature[p] = static_cast<float>((1 - w) * static_cast<double>(feature[p]) + w * distance);
  }
}

/// A whole map put together from tiles that overlap.
class Mosaic {
 public:
  Mosaic(int64_t width, int64_t height, int64_t overlap)
      : width_(width), height_(height), overlap_(overlap), map_(static_cast<size_t>(width * height)) {}

  /// Adds a tile whose values are in rows of `stride`.
  void add(const Tile& tile, const float* values, int64_t stride) {
    const auto wx = blendWeights(tile.width, overlap_, tile.x > 0, tile.x + tile.width < width_);
    const auto wy = blendWeights(tile.height, overlap_, tile.y > 0, tile.y + tile.height < height_);
    const bool whole = tile.width == width_ && tile.height == height_;
    if (!whole && weight_.empty()) weight_.resize(map_.size());
    for (int64_t y = 0; y < tile.height; ++y)
      for (int64_t x = 0; x < tile.width; ++x) {
        const auto at = static_cast<size_t>((tile.y + y) * width_ + tile.x + x);
        const float w = wx[static_cast<size_t>(x)] * wy[static_cast<size_t>(y)];
        map_[at] += w * values[y * stride + x];
        if (!whole) weight_[at] += w;
      }
  }

  /// The finished map; ERR_NUMERIC where it is not finite.
  std::vector<float> take() {
    for (size_t i = 0; i < weight_.size(); ++i) map_[i] /= weight_[i];
    if (!std::all_of(map_.begin(), map_.end(), [](float v) { return std::isfinite(v); }))
      throw Error("ERR_NUMERIC", "the network's output is not finite: the model's weights are damaged or diverged");
    return std::move(map_);
  }

 private:
  int64_t width_, height_, overlap_;
  std::vector<float> map_, weight_;
};

std::string memoryName(size_t label) { return "residual_memory." + std::to_string(label); }

/// Everything that the tiles of one image give.
struct Gathered {
  Gathered(const ScoreRequest& request, const ScoreConfig& config)
      : pixelScales(config.steps.size()),
        rgbScales(config.normalization == Normalization::kNone ? config.steps.size() : 0),
        featureScales(config.features ? config.steps.size() : 0),
        pixel(request.width, request.height, config.overlap),
        feature(config.features ? request.width : 0, request.height, config.overlap),
        distance(config.remembers ? request.width : 0, request.height, config.overlap) {}

  std::vector<Pooled> pixelScales, rgbScales, featureScales;
  Pooled distances;
  Mosaic pixel, feature, distance;
};

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

}  // namespace

class ScorerImpl {
 public:
  ScorerImpl(std::shared_ptr<Device> device, nlohmann::json json)
      : device_(std::move(device)),
        json_(std::move(json)),
        config_(ScoreConfig::fromJson(json_)),
        net_(buildUNet(config_.unet)),
        parameters_{AlignedBuffer(net_.graph.parameterFloats()), AlignedBuffer()} {}

  void setConfig(const nlohmann::json& json) {
    ScoreConfig next = ScoreConfig::fromJson(json);
    if (json.at("unet") != json_.at("unet"))
      throw Error("ERR_CONFIG", "unet: expected the network that the model has; its structure cannot change");
    if (next.features.strides != config_.features.strides || next.features.scale != config_.features.scale)
      throw Error("ERR_CONFIG", "features: expected the taps and the scale that the model has; they cannot change");
    passes_.clear();  // they refer to the old configuration
    config_ = std::move(next);
    json_ = json;
  }

  void setFeatures(FeatureSource source) {
    if (source.channels() != config_.unet.featureChannels)
      throw Error("ERR_MODEL_FORMAT", "unet.featureChannels: the backbone's taps have " +
                                          std::to_string(source.channels()) + " channels, got " +
                                          std::to_string(config_.unet.featureChannels));
    features_ = std::make_unique<FeatureSource>(std::move(source));
  }

  void setMemory(int label, ResidualMemory memory) {
    const auto at = static_cast<size_t>(label);
    if (memories_.size() <= at) memories_.resize(at + 1);
    memories_[at] = std::move(memory);
  }
  /// The memory of a label; null where there is none.
  const ResidualMemory* memoryOf(int label) const {
    const auto at = static_cast<size_t>(std::max(label, 0));
    return at < memories_.size() && memories_[at].count() > 0 ? &memories_[at] : nullptr;
  }
  void readMemories(const SafetensorsFile& file);

  ScoreResult score(const ScoreRequest& request, const Cancel& cancel);
  void save(const std::string& path, const nlohmann::json& config) const {
    std::vector<TensorToWrite> tensors;
    appendParameters(net_.graph, "", parameters_.values.data(), tensors);
    if (features_) appendFeatures(*features_, tensors);
    for (size_t label = 0; label < memories_.size(); ++label) {
      const ResidualMemory& m = memories_[label];
      if (m.count() > 0) tensors.push_back({memoryName(label), DType::kF32, {m.count(), m.channels()}, m.rows()});
    }
    writeSafetensors(path,
                     {{"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "model"}, {"config", config.dump()}},
                     tensors);
  }

  const std::shared_ptr<Device> device_;
  nlohmann::json json_;
  ScoreConfig config_;
  const UNet net_;
  ParameterBlock parameters_;
  std::unique_ptr<FeatureSource> features_;  // null where the model has none
  std::vector<ResidualMemory> memories_;     // a label each
  ScoreMemory memory_;
  std::list<ScorePass> passes_;  // most recently used first

 private:
  /// A pass for an image padded to this size.
  ScorePass& passFor(int64_t imageHeight, int64_t imageWidth) {
    const int64_t scale = features_ ? features_->scale : 1, height = imageHeight / scale, width = imageWidth / scale;
    const auto it = std::find_if(passes_.begin(), passes_.end(),
                                 [&](const ScorePass& p) { return p.height() == height && p.width() == width; });
    if (it != passes_.end()) {
      passes_.splice(passes_.begin(), passes_, it);
    } else {
      if (passes_.size() >= kMaxPasses) passes_.pop_back();
      passes_.emplace_front(*device_, net_, config_, parameters_, features_.get(), 1, height, width, &memory_);
      passes_.front().prepare();
    }
    return passes_.front();
  }

  void check(const ScoreRequest& r) const;
  /// Adds what a pass found in a tile.
  void gather(ScorePass& pass, const Tile& tile, const ScoreRequest& request, const ResidualMemory* memory,
              const Cancel& cancel, Gathered& all, ScoreResult& result) const;
  /// The maps of the whole image, normalised, smoothed and combined.
  void combine(const ScoreRequest& request, Gathered& all, ScoreResult& result) const;
  /// Minus the mean, over the standard deviation of good images at each place, where the model tells places apart.
  void normalisePlaces(const PositionGrid& grid, const ScoreRequest& request, std::vector<float>& map) const;
};

void ScorerImpl::check(const ScoreRequest& r) const {
  const auto refuse = [](const std::string& why) { throw Error("ERR_IMAGE", "image: " + why); };
  if (r.data == nullptr || r.width < 1 || r.height < 1)
    refuse("expected at least one pixel, got " + std::to_string(r.width) + " x " + std::to_string(r.height));
  if (r.channels != config_.unet.inChannels)
    refuse("expected " + std::to_string(config_.unet.inChannels) + " channels, got " + std::to_string(r.channels));
  if (r.type == PixelType::kF32) {
    const auto* values = static_cast<const float*>(r.data);
    const int64_t n = static_cast<int64_t>(r.width) * r.height * r.channels;
    if (!std::all_of(values, values + n, [](float v) { return v >= 0.0f && v <= 1.0f; }))
      refuse("expected float pixels from 0 to 1");
  }
  if (config_.unet.numClasses > 0 && (r.label < 0 || r.label >= config_.unet.numClasses))
    throw Error("ERR_ARGUMENT", "label: expected 0 to " + std::to_string(config_.unet.numClasses - 1) + ", got " +
                                    std::to_string(r.label));
}

void ScorerImpl::readMemories(const SafetensorsFile& file) {
  for (int label = 0; label < std::max<int64_t>(1, config_.unet.numClasses); ++label) {
    const std::string name = memoryName(static_cast<size_t>(label));
    const TensorEntry* entry = file.find(name);
    if (!entry && !config_.remembers) continue;
    if (!entry || !features_ || entry->shape.size() != 2 || entry->shape[0] < 1 || entry->shape[0] > kMaxResiduals ||
        entry->shape[1] != features_->channels())
      throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name + ": expected residuals of the model's features");
    std::vector<float> rows(static_cast<size_t>(entry->shape[0] * entry->shape[1]));
    file.readFloats(name, entry->shape, rows.data());
    setMemory(label, ResidualMemory(rows.data(), entry->shape[0], entry->shape[1]));
  }
}

void ScorerImpl::normalisePlaces(const PositionGrid& grid, const ScoreRequest& request, std::vector<float>& map) const {
  if (grid.mean.empty()) return;
  std::vector<float> mean(map.size()), std(map.size());
  const auto spread = [&](const std::vector<float>& from, std::vector<float>& to) {
    resizeBilinear(device_->threads(), from.data(), config_.gridWidth, config_.gridHeight, to.data(), request.width,
                   request.height);
  };
  spread(grid.mean, mean);
  spread(grid.std, std);
  for (size_t i = 0; i < map.size(); ++i) map[i] = (map[i] - mean[i]) / std[i];
}

void ScorerImpl::gather(ScorePass& pass, const Tile& tile, const ScoreRequest& request, const ResidualMemory* memory,
                        const Cancel& cancel, Gathered& all, ScoreResult& result) const {
  const auto cells = [](int64_t length, int64_t stride) { return (length + stride - 1) / stride; };
  const int64_t scale = pass.scale(), height = cells(tile.height, scale), width = cells(tile.width, scale);
  const int64_t rows = cells(height, 4), columns = cells(width, 4);  // of the grid of the features
  for (size_t s = 0; s < all.pixelScales.size(); ++s) {
    const auto of = static_cast<int64_t>(s);
    all.pixelScales[s].add(pass.kl(0, of), height, width, pass.width());
    if (!all.rgbScales.empty()) all.rgbScales[s].add(pass.rgb(0, of), height, width, pass.width());
    if (features_) all.featureScales[s].add(pass.featureErrors(0, of), rows, columns, pass.gridWidth());
  }
  all.pixel.add(tile, pass.map(0), pass.imageWidth());
  if (!features_) return;
  all.feature.add(tile, pass.featureMap(0), pass.imageWidth());
  if (!memory && !request.residuals) return;
  const float* residuals = pass.pooledResiduals(0);
  if (request.residuals)
    for (int64_t y = 0; y < rows; ++y) {
      const float* row = residuals + y * pass.gridWidth() * features_->channels();
      result.residuals.insert(result.residuals.end(), row, row + columns * features_->channels());
    }
  if (!memory) return;
  std::vector<float> grid(static_cast<size_t>(pass.gridHeight() * pass.gridWidth()));
  std::vector<float> map(static_cast<size_t>(pass.imageHeight() * pass.imageWidth()));
  memory->nearest(*device_, residuals, static_cast<int64_t>(grid.size()), grid.data(), cancel);
  all.distances.add(grid.data(), rows, columns, pass.gridWidth());
  resizeBilinear(device_->threads(), grid.data(), pass.gridWidth(), pass.gridHeight(), map.data(), pass.imageWidth(),
                 pass.imageHeight());
  all.distance.add(tile, map.data(), pass.imageWidth());
}

void ScorerImpl::combine(const ScoreRequest& request, Gathered& all, ScoreResult& result) const {
  result.pixelMap = all.pixel.take();
  if (config_.kind != ScoreKind::kRgb) normalisePlaces(config_.pixelGrid, request, result.pixelMap);
  gaussianBlur(device_->threads(), result.pixelMap, request.width, request.height, config_.smoothing);
  result.map = result.pixelMap;
  if (!features_) return;
  result.featureMap = all.feature.take();
  normalisePlaces(config_.featureGrid, request, result.featureMap);
  if (config_.memoryWeight > 0) mixDistances(config_, all.distance.take(), result.featureMap);
  gaussianBlur(device_->threads(), result.featureMap, request.width, request.height, config_.smoothing);
  if (config_.kind == ScoreKind::kEnsemble) combineMaps(config_, result.map, result.featureMap);
  if (config_.kind == ScoreKind::kFeature) result.map = result.featureMap;
}

ScoreResult ScorerImpl::score(const ScoreRequest& request, const Cancel& cancel) {
  check(request);
  const int64_t scale = features_ ? features_->scale : 1;
  const int64_t unit = std::lcm(scale << net_.graph.maxLevel(), features_ ? features_->unit() : 1);
  const auto padded = [&](int64_t n) { return (n + unit - 1) / unit * unit; };
  const std::vector<Tile> tiles = planTiles(request.width, request.height, config_.tile, config_.overlap);
  if (tiles.size() > 1 && config_.normalization == Normalization::kPerImage)
    throw Error("ERR_IMAGE", "image: per-image normalisation needs the whole image at once, at most " +
                                 std::to_string(config_.tile) + " pixels a side, got " + std::to_string(request.width) +
                                 " x " + std::to_string(request.height));
  const ResidualMemory* memory = config_.remembers ? memoryOf(request.label) : nullptr;
  if (config_.memoryWeight > 0 && !memory)
    throw Error("ERR_CONFIG", "score.memory: the model has no residuals of good images");
  Gathered all(request, config_);
  ScoreResult result;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const Tile& tile = tiles[i];
    ScorePass& pass = passFor(padded(tile.height), padded(tile.width));
    normalizePixels(request, tile, pass.imageHeight(), pass.imageWidth(), pass.image(0));
    pass.setLabel(0, request.label);
    const auto sample = static_cast<uint32_t>(i);
    pass.run(&sample, cancel);
    gather(pass, tile, request, memory, cancel, all, result);
  }
  combine(request, all, result);
  const int64_t top =
      config_.topCount > 0
          ? config_.topCount
          : static_cast<int64_t>(std::lround(config_.topShare * static_cast<double>(result.map.size())));
  result.score = meanOfLargest(result.map, top);
  result.pixel = statisticsOf(all.pixelScales);
  result.rgb = statisticsOf(all.rgbScales);
  result.feature = statisticsOf(all.featureScales);
  if (memory) result.memory = statisticsOf({all.distances});
  result.width = request.outWidth > 0 ? request.outWidth : request.width;
  result.height = request.outHeight > 0 ? request.outHeight : request.height;
  if (result.width != request.width || result.height != request.height)
    for (std::vector<float>* map : {&result.map, &result.pixelMap, &result.featureMap}) {
      if (map->empty()) continue;
      std::vector<float> resized(static_cast<size_t>(result.width) * static_cast<size_t>(result.height));
      resizeBilinear(device_->threads(), map->data(), request.width, request.height, resized.data(), result.width,
                     result.height);
      *map = std::move(resized);
    }
  return result;
}

std::unique_ptr<Scorer> Scorer::load(std::shared_ptr<Device> device, const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::unique_ptr<ScorerImpl> impl;
  try {
    nlohmann::json config = parseModelConfig(file);
    checkParameters(buildUNet(UNetConfig::fromJson(requireObject(config, "unet"))).graph, file, "");
    impl = std::make_unique<ScorerImpl>(std::move(device), std::move(config));
  } catch (const Error& e) {
    if (e.code() != "ERR_CONFIG") throw;
    throw Error("ERR_MODEL_FORMAT", path + ": its configuration is not valid: " + e.what());
  }
  readParameters(impl->net_.graph, file, "", impl->parameters_.values.data());
  if (impl->config_.features) impl->setFeatures(readFeatures(file, impl->config_.features));
  impl->readMemories(file);
  return std::unique_ptr<Scorer>(new Scorer(std::move(impl)));
}

Scorer::Scorer(std::unique_ptr<ScorerImpl> impl) : impl_(std::move(impl)) {}
Scorer::Scorer(std::shared_ptr<Device> device, const nlohmann::json& config, const float* parameters,
               const FeatureSource* features)
    : impl_(std::make_unique<ScorerImpl>(std::move(device), config)) {
  if ((features != nullptr) != static_cast<bool>(impl_->config_.features))
    throw Error("ERR_CONFIG", "features: expected the features that the configuration names, and none without");
  if (features) impl_->setFeatures(copyFeatures(*features));
  std::memcpy(impl_->parameters_.values.data(), parameters, static_cast<size_t>(impl_->parameters_.values.bytes()));
}
Scorer::~Scorer() = default;

const nlohmann::json& Scorer::config() const { return impl_->json_; }
void Scorer::setConfig(const nlohmann::json& config) { impl_->setConfig(config); }
void Scorer::setMemory(int label, const std::vector<float>& residuals, int64_t count) {
  if (!impl_->features_) throw Error("ERR_CONFIG", "features: expected a model with features, which residuals are of");
  if (label < 0 || label >= std::max<int64_t>(1, impl_->config_.unet.numClasses))
    throw Error("ERR_ARGUMENT", "label: expected one of the model's classes, got " + std::to_string(label));
  if (count < 1 || count > kMaxResiduals)
    throw Error("ERR_ARGUMENT",
                "residuals: expected 1 to " + std::to_string(kMaxResiduals) + " of them, got " + std::to_string(count));
  const int64_t channels = impl_->features_->channels(), floats = count * channels;
  if (static_cast<int64_t>(residuals.size()) != floats)
    throw Error("ERR_ARGUMENT", "residuals: expected " + std::to_string(count) + " of " + std::to_string(channels) +
                                    " channels, got " + std::to_string(residuals.size()) + " values");
  impl_->setMemory(label, ResidualMemory(residuals.data(), count, channels));
}
ScoreResult Scorer::score(const ScoreRequest& request, const Cancel& cancel) { return impl_->score(request, cancel); }
void Scorer::save(const std::string& path, const nlohmann::json& config) const { impl_->save(path, config); }
nlohmann::json Scorer::memory() const {
  const auto bytes = [](const std::shared_ptr<AlignedBuffer>& buffer) { return buffer ? buffer->bytes() : int64_t{0}; };
  const ScoreMemory& m = impl_->memory_;
  int64_t activations = bytes(m.unet.arena) + bytes(m.backbone.arena);
  for (const ScorePass& pass : impl_->passes_) activations += pass.ownBytes();
  int64_t residuals = 0;
  for (const ResidualMemory& memory : impl_->memories_) residuals += memory.bytes();
  const int64_t backbone = impl_->features_ ? impl_->features_->block.values.bytes() : 0;
  return {{"parameters", impl_->parameters_.values.bytes() + backbone},
          {"activations", activations},
          {"packedWeights", bytes(m.unet.packed) + bytes(m.backbone.packed)},
          {"residualMemory", residuals}};
}

}  // namespace ddad
