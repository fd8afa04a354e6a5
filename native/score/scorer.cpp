#include "score/scorer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>

#include "ops/parameters.h"
#include "score/pixels.h"
#include "score/score_pass.h"

namespace ddad {
namespace {

constexpr size_t kMaxPasses = 4;  // compiled sizes kept; images of one line mostly have one

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
  nlohmann::json config = nlohmann::json::parse(text("config"), nullptr, false);
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
    passes_.clear();  // they refer to the old configuration
    config_ = std::move(next);
    json_ = json;
  }

  ScoreResult score(const ScoreRequest& request, const Cancel& cancel);
  void save(const std::string& path, const nlohmann::json& config) const {
    std::vector<TensorToWrite> tensors;
    appendParameters(net_.graph, "", parameters_.values.data(), tensors);
    writeSafetensors(path,
                     {{"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "model"}, {"config", config.dump()}},
                     tensors);
  }

  const std::shared_ptr<Device> device_;
  nlohmann::json json_;
  ScoreConfig config_;
  const UNet net_;
  ParameterBlock parameters_;
  PlanMemory memory_;            // shared by the passes: one runs at a time
  std::list<ScorePass> passes_;  // most recently used first

 private:
  ScorePass& passFor(int64_t height, int64_t width) {
    const auto it = std::find_if(passes_.begin(), passes_.end(),
                                 [&](const ScorePass& p) { return p.height() == height && p.width() == width; });
    if (it != passes_.end()) {
      passes_.splice(passes_.begin(), passes_, it);
    } else {
      if (passes_.size() >= kMaxPasses) passes_.pop_back();
      passes_.emplace_front(*device_, net_, config_, parameters_, 1, height, width, &memory_);
      passes_.front().prepare();
    }
    return passes_.front();
  }

  void check(const ScoreRequest& r) const;
  /// Map of a tile, [tile.height, tile.width], and the statistics of its scales.
  void tileMap(const ScorePass& pass, const Tile& tile, std::vector<float>& map, std::vector<Pooled>& pooled) const;
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

void ScorerImpl::tileMap(const ScorePass& pass, const Tile& tile, std::vector<float>& map,
                         std::vector<Pooled>& pooled) const {
  const int64_t scales = static_cast<int64_t>(config_.steps.size()), width = pass.width();
  const bool perImage = config_.normalization == Normalization::kPerImage;
  map.assign(static_cast<size_t>(tile.width * tile.height), 0.0f);
  for (int64_t y = 0; y < tile.height && !perImage; ++y)
    std::memcpy(map.data() + y * tile.width, pass.map(0) + y * width, static_cast<size_t>(tile.width) * sizeof(float));
  for (int64_t s = 0; s < scales; ++s) {
    const float* kl = pass.kl(0, s);
    double sum = 0, squares = 0;
    const auto count = static_cast<double>(tile.width * tile.height);
    for (int64_t y = 0; y < tile.height; ++y)
      for (int64_t x = 0; x < tile.width; ++x) sum += static_cast<double>(kl[y * width + x]);
    for (int64_t y = 0; y < tile.height; ++y)
      for (int64_t x = 0; x < tile.width; ++x) {
        const double d = static_cast<double>(kl[y * width + x]) - sum / count;
        squares += d * d;
      }
    pooled[static_cast<size_t>(s)].add(count, sum / count, squares);
    if (!perImage) continue;
    // mean over the channels of (KL - mean) / std, both over all elements of the image at this scale
    const KlStatistics& k = pass.statistics(0, s);
    const double scale = k.elementStd > 0 ? 1.0 / (k.elementStd * static_cast<double>(scales)) : 0.0;
    for (int64_t y = 0; y < tile.height; ++y)
      for (int64_t x = 0; x < tile.width; ++x)
        map[static_cast<size_t>(y * tile.width + x)] +=
            static_cast<float>((static_cast<double>(kl[y * width + x]) - k.elementMean) * scale);
  }
}

ScoreResult ScorerImpl::score(const ScoreRequest& request, const Cancel& cancel) {
  check(request);
  const int64_t unit = int64_t{1} << net_.graph.maxLevel();
  const auto padded = [&](int64_t n) { return (n + unit - 1) / unit * unit; };
  const std::vector<Tile> tiles = planTiles(request.width, request.height, config_.tile, config_.overlap);
  if (tiles.size() > 1 && config_.normalization == Normalization::kPerImage)
    throw Error("ERR_IMAGE", "image: per-image normalisation needs the whole image at once, at most " +
                                 std::to_string(config_.tile) + " pixels a side, got " + std::to_string(request.width) +
                                 " x " + std::to_string(request.height));
  std::vector<Pooled> pooled(config_.steps.size());
  std::vector<float> map(static_cast<size_t>(request.width) * static_cast<size_t>(request.height)), part;
  std::vector<float> weight(tiles.size() > 1 ? map.size() : 0);
  for (size_t i = 0; i < tiles.size(); ++i) {
    const Tile& tile = tiles[i];
    ScorePass& pass = passFor(padded(tile.height), padded(tile.width));
    normalizePixels(request, tile, pass.height(), pass.width(), pass.image(0));
    pass.setLabel(0, request.label);
    const auto sample = static_cast<uint32_t>(i);
    pass.run(&sample, cancel);
    tileMap(pass, tile, part, pooled);
    if (tiles.size() == 1) {
      map = std::move(part);
      break;
    }
    const auto wx = blendWeights(tile.width, config_.overlap, tile.x > 0, tile.x + tile.width < request.width);
    const auto wy = blendWeights(tile.height, config_.overlap, tile.y > 0, tile.y + tile.height < request.height);
    for (int64_t y = 0; y < tile.height; ++y)
      for (int64_t x = 0; x < tile.width; ++x) {
        const auto at = static_cast<size_t>((tile.y + y) * request.width + tile.x + x);
        const float w = wx[static_cast<size_t>(x)] * wy[static_cast<size_t>(y)];
        map[at] += w * part[static_cast<size_t>(y * tile.width + x)];
        weight[at] += w;
      }
  }
  for (size_t i = 0; i < weight.size(); ++i) map[i] /= weight[i];
  if (!std::all_of(map.begin(), map.end(), [](float v) { return std::isfinite(v); }))
    throw Error("ERR_NUMERIC", "the network's output is not finite: the model's weights are damaged or diverged");

  ScoreResult result;
  gaussianBlur(map, request.width, request.height, config_.smoothing);
  const int64_t top = config_.topCount > 0
                          ? config_.topCount
                          : static_cast<int64_t>(std::lround(config_.topShare * static_cast<double>(map.size())));
  result.score = meanOfLargest(map, top);
  for (const Pooled& p : pooled) {
    result.scaleMean.push_back(p.mean);
    result.scaleStd.push_back(p.std());
  }
  result.elements = static_cast<int64_t>(pooled.front().count);
  result.width = request.outWidth > 0 ? request.outWidth : request.width;
  result.height = request.outHeight > 0 ? request.outHeight : request.height;
  result.map = result.width == request.width && result.height == request.height
                   ? std::move(map)
                   : resizeBilinear(map, request.width, request.height, result.width, result.height);
  return result;
}

std::unique_ptr<Scorer> Scorer::load(std::shared_ptr<Device> device, const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::unique_ptr<ScorerImpl> impl;
  try {
    impl = std::make_unique<ScorerImpl>(std::move(device), parseModelConfig(file));
  } catch (const Error& e) {
    if (e.code() != "ERR_CONFIG") throw;
    throw Error("ERR_MODEL_FORMAT", path + ": its configuration is not valid: " + e.what());
  }
  readParameters(impl->net_.graph, file, "", impl->parameters_.values.data());
  return std::unique_ptr<Scorer>(new Scorer(std::move(impl)));
}

Scorer::Scorer(std::unique_ptr<ScorerImpl> impl) : impl_(std::move(impl)) {}
Scorer::Scorer(std::shared_ptr<Device> device, const nlohmann::json& config, const float* parameters)
    : impl_(std::make_unique<ScorerImpl>(std::move(device), config)) {
  std::memcpy(impl_->parameters_.values.data(), parameters, static_cast<size_t>(impl_->parameters_.values.bytes()));
}
Scorer::~Scorer() = default;

const nlohmann::json& Scorer::config() const { return impl_->json_; }
void Scorer::setConfig(const nlohmann::json& config) { impl_->setConfig(config); }
ScoreResult Scorer::score(const ScoreRequest& request, const Cancel& cancel) { return impl_->score(request, cancel); }
void Scorer::save(const std::string& path, const nlohmann::json& config) const { impl_->save(path, config); }
nlohmann::json Scorer::memory() const {
  int64_t activations = impl_->memory_.arena ? impl_->memory_.arena->bytes() : 0;
  const int64_t packed = impl_->memory_.packed ? impl_->memory_.packed->bytes() : 0;
  for (const ScorePass& pass : impl_->passes_) activations += pass.ownBytes();
  return {{"parameters", impl_->parameters_.values.bytes()}, {"activations", activations}, {"packedWeights", packed}};
}

}  // namespace ddad
