#include "score/score_lane.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "score/image/mosaic.h"
#include "score/image/resize.h"

namespace ddad {
namespace {

constexpr int64_t kMostRows = 16384;               // of an image, about, that evidence is fitted on: 32 MB
constexpr size_t kMaxPasses = 4;                   // compiled sizes kept; images of one line mostly have one
constexpr int64_t kSmallBytes = int64_t{1} << 26;  // of a pass that memory is not asked about for

ScoreResult::Statistics statisticsOf(const std::vector<Pooled>& scales) {
  ScoreResult::Statistics statistics;
  for (const Pooled& p : scales) {
    statistics.mean.push_back(p.mean);
    statistics.std.push_back(p.std());
  }
  statistics.elements = scales.empty() ? 0 : static_cast<int64_t>(scales.front().count);
  return statistics;
}

/// Refuses what memory cannot hold before any of it is taken: tiles, scales and channels are a model's to choose.
void requireRoom(const Device& device, const UNet& net, const ScoreConfig& config, const PlanMemory& held,
                 int64_t height, int64_t width) {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const auto scales = static_cast<int64_t>(config.steps.size());
  if (scales * height * width * config.unet.modelChannels * kFloat < kSmallBytes) return;
  const Plan::Needs needs = Plan::needs(device, net.graph, {scales, height, width});
  const int64_t there = (held.arena ? held.arena->bytes() : 0) + (held.packed ? held.packed->bytes() : 0);
  const int64_t wanted = needs.activations + needs.packed - there, available = device.availableBytes();
  if (wanted > available)
    throw Error("ERR_MEMORY", "scoring " + std::to_string(width) + " x " + std::to_string(height) + " at " +
                                  std::to_string(scales) + " noise scales takes " + std::to_string(wanted >> 20) +
                                  " MiB of memory, of which " + std::to_string(available >> 20) + " MiB are free");
}

/// shat^f = (1 - w) shat^f + w times the normalised distance to known residuals.
void mixDistances(const ScoreConfig& config, const std::vector<float>& distances, std::vector<float>& feature) {
  const double w = config.memoryWeight;
  for (size_t p = 0; p < feature.size(); ++p) {
    const double distance = (static_cast<double>(distances[p]) - config.memoryMean) / config.memoryStd;
    feature[p] = static_cast<float>((1 - w) * static_cast<double>(feature[p]) + w * distance);
  }
}

}  // namespace

/// Everything that the tiles of one image give.
struct ScoreLane::Gathered {
  Gathered(const ScoreRequest& request, const ScoreConfig& config)
      : pixelScales(config.steps.size()),
        rgbScales(config.normalization == Normalization::kNone ? config.steps.size() : 0),
        featureScales(config.features ? config.steps.size() : 0),
        pixel(request.width, request.height, config.overlap),
        feature(config.features ? request.width : 0, request.height, config.overlap),
        distance(config.remembers ? request.width : 0, request.height, config.overlap),
        padim(config.kind == ScoreKind::kPadim ? request.width : 0, request.height, config.overlap),
        evidence(config.evidence.mapMean.empty() ? 0 : request.width, request.height, config.overlap),
        distanceMaps(config.evidence.maps()),
        largest(config.evidence.maps(), 0.0f) {}

  std::vector<Pooled> pixelScales, rgbScales, featureScales;
  Pooled distances;
  Mosaic pixel, feature, distance, padim, evidence;
  std::vector<Pooled> distanceMaps;  // of the evidence: to each bank, then to the Gaussians of places
  std::vector<float> largest;        // of them
  double image = 0;                  // distance of the whole image
};

ScoreLane::ScoreLane(std::shared_ptr<const Device> device, ScoreModel& model, const ScoreMemory* packed)
    : device_(std::move(device)), model_(model) {
  if (!packed) return;
  for (const auto& [from, to] : {std::pair{&packed->unet, &memory_.unet}, {&packed->backbone, &memory_.backbone}}) {
    to->packed = from->packed;
    to->packedParts = from->packedParts;
  }
}

std::vector<Tile> ScoreLane::tilesOf(const ScoreRequest& request) const {
  const ScoreConfig& config = model_.config();
  return planTiles(request.width, request.height, config.tile, config.overlap);
}

bool ScoreLane::single(const ScoreRequest& request) const {
  const int64_t tile = model_.config().tile;
  return request.width <= tile && request.height <= tile;
}

ScorePass& ScoreLane::passFor(const Tile& tile) {
  FeatureSource* features = model_.features();
  const int64_t scale = features ? features->scale : 1;
  const int64_t unit = std::lcm(scale << model_.net().graph.maxLevel(), features ? features->unit() : 1);
  const auto padded = [&](int64_t n) { return (n + unit - 1) / unit * unit / scale; };
  const int64_t height = padded(tile.height), width = padded(tile.width);
  const auto it = std::find_if(passes_.begin(), passes_.end(),
                               [&](const ScorePass& p) { return p.height() == height && p.width() == width; });
  if (it != passes_.end()) {
    passes_.splice(passes_.begin(), passes_, it);
  } else {
    if (passes_.size() >= kMaxPasses) passes_.pop_back();
    requireRoom(*device_, model_.net(), model_.config(), memory_.unet, height, width);
    passes_.emplace_front(*device_, model_.net(), model_.config(), model_.parameters(), features, 1, height, width,
                          &memory_);
    try {
      passes_.front().prepare();
    } catch (...) {
      passes_.pop_front();  // it would be taken for a complete one
      throw;
    }
  }
  return passes_.front();
}

void ScoreLane::prepare(const ScoreRequest& request) {
  model_.checkRequest(request);
  const Tile tile = tilesOf(request).front();
  passFor(tile);
  if (model_.config(request.label).kind == ScoreKind::kPadim) preparePadim(tile, model_.gaussian(request.label).get());
}

void ScoreLane::normalisePlaces(const PositionGrid& grid, const ScoreRequest& request, std::vector<float>& map) const {
  if (grid.mean.empty()) return;
  const ScoreConfig& config = model_.config(request.label);
  std::vector<float> mean(map.size()), std(map.size());
  const auto spread = [&](const std::vector<float>& from, std::vector<float>& to) {
    resizeBilinear(device_->threads(), from.data(), config.gridWidth, config.gridHeight, to.data(), request.width,
                   request.height);
  };
  spread(grid.mean, mean);
  spread(grid.std, std);
  for (size_t i = 0; i < map.size(); ++i) map[i] = (map[i] - mean[i]) / std[i];
}

void ScoreLane::gather(ScorePass& pass, const Tile& tile, const ScoreRequest& request, const ResidualMemory* memory,
                       const Cancel& cancel, Gathered& all, ScoreResult& result) const {
  const auto cells = [](int64_t length, int64_t stride) { return (length + stride - 1) / stride; };
  const int64_t scale = pass.scale(), height = cells(tile.height, scale), width = cells(tile.width, scale);
  const int64_t rows = cells(height, 4), columns = cells(width, 4);  // of the grid of the features
  for (size_t s = 0; s < all.pixelScales.size(); ++s) {
    const auto of = static_cast<int64_t>(s);
    all.pixelScales[s].add(pass.kl(0, of), height, width, pass.width());
    if (!all.rgbScales.empty()) all.rgbScales[s].add(pass.rgb(0, of), height, width, pass.width());
    if (pass.hasFeatures()) all.featureScales[s].add(pass.featureErrors(0, of), rows, columns, pass.gridWidth());
  }
  all.pixel.add(tile, pass.map(0), pass.imageWidth());
  if (!pass.hasFeatures()) return;
  all.feature.add(tile, pass.featureMap(0), pass.imageWidth());
  if (!memory && !request.residuals) return;
  const float* residuals = pass.pooledResiduals(0);
  const int64_t channels = model_.features()->channels();
  if (request.residuals)
    for (int64_t y = 0; y < rows; ++y) {
      const float* row = residuals + y * pass.gridWidth() * channels;
      result.residuals.insert(result.residuals.end(), row, row + columns * channels);
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

void ScoreLane::gatherEvidence(ScorePass& pass, const Tile& tile, const ScoreRequest& request, const Cancel& cancel,
                               Gathered& all, ScoreResult& result) const {
  const EvidenceConfig& config = model_.config(request.label).evidence;
  const FeatureEvidence* known = model_.evidence(request.label);
  if (!config || (!known && !request.features)) return;
  const EvidenceLayout layout(*model_.features());
  const EvidenceTile own(*device_, pass.extractor(), layout, config.placeStride);
  const int64_t rows = std::min(own.rows, (tile.height + 7) / 8), columns = std::min(own.columns, (tile.width + 7) / 8);
  const int64_t channels = layout.channels;
  if (request.features) {
    result.evidenceChannels = channels;
    const int64_t whole = int64_t{request.width} * request.height / 64, every = std::max<int64_t>(1, whole / kMostRows);
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) {
        if ((y * columns + x) % every != 0) continue;
        const float* row = own.features.data() + (y * own.columns + x) * channels;
        result.evidenceRows.insert(result.evidenceRows.end(), row, row + channels);
      }
    result.evidenceStatistics.insert(result.evidenceStatistics.end(), own.statistics.begin(), own.statistics.end());
    result.evidencePlaces = own.places;
  }
  if (!known || request.featuresOnly) return;
  const int64_t cells = own.rows * own.columns;
  std::vector<float> distances(static_cast<size_t>(cells)), sum(static_cast<size_t>(cells), 0.0f), query;
  // the statistics and the largest of `distances`, which lie on a grid of `width`
  const auto keep = [&](size_t map, int64_t height, int64_t across, int64_t width) {
    all.distanceMaps[map].add(distances.data(), height, across, width);
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < across; ++x) {
        const float distance = distances[static_cast<size_t>(y * width + x)];
        // what is not a number stays so
        if (!(distance <= all.largest[map]) && !std::isnan(all.largest[map])) all.largest[map] = distance;
      }
  };
  const auto draw = [&](size_t map, const std::vector<float>& values) {
    if (config.mapMean.empty()) return;
    const double share = 1.0 / (config.mapStd[map] * static_cast<double>(config.maps()));
    for (size_t p = 0; p < sum.size(); ++p)
      sum[p] += static_cast<float>((static_cast<double>(values[p]) - config.mapMean[map]) * share);
  };
  for (size_t bank = 0; bank < config.banks.size(); ++bank) {
    const auto [first, size] = layout.range(config.banks[bank]);
    query.resize(static_cast<size_t>(cells * size));
    for (int64_t p = 0; p < cells; ++p)
      for (int64_t c = 0; c < size; ++c) {
        const auto at = static_cast<size_t>(first + c);
        query[static_cast<size_t>(p * size + c)] =
            (own.features[static_cast<size_t>(p * channels) + at] - known->mean[at]) / known->std[at];
      }
    known->banks[bank].nearest(*device_, query.data(), cells, distances.data(), cancel);
    keep(bank, rows, columns, own.columns);
    draw(bank, distances);
  }
  if (config.image) {
    const double distance = known->image.distance(own.statistics);  // of tiles the farthest counts
    if (!(distance <= all.image) && !std::isnan(all.image)) all.image = distance;
  }
  if (config.placeStride > 0) {
    if (!known->places) throw Error("ERR_CONFIG", "score.evidence.placeStride: the model has no Gaussians of places");
    distances = placeDistances(*device_, *known->places, own.places);
    keep(config.banks.size(), own.placeRows, own.placeColumns, own.placeColumns);
    std::vector<float> spread(static_cast<size_t>(cells));
    resizeBilinear(device_->threads(), distances.data(), own.placeColumns, own.placeRows, spread.data(), own.columns,
                   own.rows);
    draw(config.banks.size(), spread);
  }
  if (config.mapMean.empty()) return;
  std::vector<float> map(static_cast<size_t>(pass.imageHeight() * pass.imageWidth()));
  resizeBilinear(device_->threads(), sum.data(), own.columns, own.rows, map.data(), pass.imageWidth(),
                 pass.imageHeight());
  all.evidence.add(tile, map.data(), pass.imageWidth());
}

void ScoreLane::judge(const ScoreRequest& request, Gathered& all, ScoreResult& result) const {
  const ScoreConfig& config = model_.config(request.label);
  const int64_t top = config.topCount > 0
                          ? config.topCount
                          : static_cast<int64_t>(std::lround(config.topShare * static_cast<double>(result.map.size())));
  result.score = meanOfLargest(result.map, top);
  const EvidenceConfig& evidence = config.evidence;
  if (!evidence || !model_.evidence(request.label)) return;
  const auto logarithm = [](double distance) { return std::log(std::max(distance, 1e-9)); };
  result.evidence.push_back(result.score);
  for (const size_t bank : evidence.judges())
    result.evidence.push_back(logarithm(static_cast<double>(all.largest[bank])));
  if (!evidence.judges().empty()) result.evidence.push_back(logarithm(all.distanceMaps[evidence.judges().back()].mean));
  if (evidence.image) result.evidence.push_back(logarithm(all.image));
  if (evidence.placeStride > 0) result.evidence.push_back(logarithm(static_cast<double>(all.largest.back())));
  if (!evidence.mean.empty()) result.score = combineEvidence(evidence, result.evidence);
  if (!std::isfinite(result.score)) throw Error("ERR_NUMERIC", "the score of an image is not finite");
  if (evidence.mapMean.empty()) return;
  std::vector<float> map = all.evidence.take();
  gaussianBlur(device_->threads(), map, request.width, request.height, config.smoothing);
  const auto share = static_cast<float>(evidence.share);  // the ensemble has the rest
  for (size_t p = 0; p < map.size(); ++p) result.map[p] += share * (map[p] - result.map[p]);
}

void ScoreLane::preparePadim(const Tile& tile, const FeatureGaussian* gaussian) {
  if (!gaussian) throw Error("ERR_CONFIG", "score.kind: padim: the model has no Gaussian of good features");
  if (!padim_ || !padim_->fits(tile))
    padim_ = std::make_unique<FeaturePass>(*device_, model_, gaussian->shape.dims, tile.height, tile.width);
}

void ScoreLane::gatherPadim(const Tile& tile, const ScoreRequest& request, const Cancel& cancel, Gathered& all) {
  const auto gaussian = model_.gaussian(request.label);
  preparePadim(tile, gaussian.get());
  std::vector<float> map(static_cast<size_t>(padim_->imageHeight() * padim_->imageWidth()));
  padim_->distances(*gaussian, request, tile, map.data(), cancel);
  all.padim.add(tile, map.data(), padim_->imageWidth());
}

void ScoreLane::combine(const ScoreRequest& request, Gathered& all, ScoreResult& result) const {
  const ScoreConfig& config = model_.config(request.label);
  result.pixelMap = all.pixel.take();
  if (config.kind != ScoreKind::kRgb) normalisePlaces(config.pixelGrid, request, result.pixelMap);
  gaussianBlur(device_->threads(), result.pixelMap, request.width, request.height, config.smoothing);
  const MapSource source = config.source();
  const auto judgeBy = [&](std::vector<float>& map, const float* to) {
    result.map = request.shareMaps && to == nullptr ? std::move(map) : map;
  };
  if (source == MapSource::kPixel) judgeBy(result.pixelMap, request.pixelMap);
  if (!model_.features()) return;
  result.featureMap = all.feature.take();
  normalisePlaces(config.featureGrid, request, result.featureMap);
  if (config.memoryWeight > 0) mixDistances(config, all.distance.take(), result.featureMap);
  gaussianBlur(device_->threads(), result.featureMap, request.width, request.height, config.smoothing);
  if (source == MapSource::kFeature) judgeBy(result.featureMap, request.featureMap);
  if (source != MapSource::kBoth) return;
  if (config.kind == ScoreKind::kPadim) {
    result.map = all.padim.take();
    gaussianBlur(device_->threads(), result.map, request.width, request.height, config.smoothing);
    return;
  }
  result.map = result.pixelMap;
  combineMaps(config, result.map, result.featureMap);
}

ScoreResult ScoreLane::score(const ScoreRequest& request, const Cancel& cancel) {
  model_.checkRequest(request);
  const ScoreConfig& config = model_.config(request.label);
  const std::vector<Tile> tiles = tilesOf(request);
  if (tiles.size() > 1 && config.normalization == Normalization::kPerImage)
    throw Error("ERR_IMAGE", "image: per-image normalisation needs the whole image at once, at most " +
                                 std::to_string(config.tile) + " pixels a side, got " + std::to_string(request.width) +
                                 " x " + std::to_string(request.height));
  if (tiles.size() > 1 && config.evidence.placeStride > 0)
    throw Error("ERR_IMAGE", "image: Gaussians of places need the whole image at once, at most " +
                                 std::to_string(config.tile) + " pixels a side, got " + std::to_string(request.width) +
                                 " x " + std::to_string(request.height));
  const ResidualMemory* memory = config.remembers ? model_.memory(request.label) : nullptr;
  if (config.memoryWeight > 0 && !memory)
    throw Error("ERR_CONFIG", "score.memory: the model has no residuals of good images");
  if (!config.evidence.mapMean.empty() && !model_.evidence(request.label))
    throw Error("ERR_CONFIG", "score.evidence: the model has no features of good images");
  if (request.featuresOnly && !(config.evidence && request.features))
    throw Error("ERR_ARGUMENT", "image: features alone are asked for of a model without evidence");
  Gathered all(request, config);
  ScoreResult result;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const Tile& tile = tiles[i];
    ScorePass& pass = passFor(tile);
    pass.use(config);
    normalizePixels(request, tile, pass.imageHeight(), pass.imageWidth(), pass.image(0));
    if (request.featuresOnly) {
      pass.runBackbone(cancel);
      gatherEvidence(pass, tile, request, cancel, all, result);
      continue;
    }
    pass.setLabel(0, request.label);
    const auto sample = static_cast<uint32_t>(i);
    pass.run(&sample, cancel);
    gather(pass, tile, request, memory, cancel, all, result);
    if (config.evidence) gatherEvidence(pass, tile, request, cancel, all, result);
    if (config.kind == ScoreKind::kPadim) gatherPadim(tile, request, cancel, all);
  }
  if (request.featuresOnly) return result;
  combine(request, all, result);
  judge(request, all, result);
  result.pixel = statisticsOf(all.pixelScales);
  result.rgb = statisticsOf(all.rgbScales);
  result.feature = statisticsOf(all.featureScales);
  if (memory) result.memory = statisticsOf({all.distances});
  if (model_.evidence(request.label))
    for (const Pooled& map : all.distanceMaps) result.banks.push_back(statisticsOf({map}));
  result.width = request.outWidth > 0 ? request.outWidth : request.width;
  result.height = request.outHeight > 0 ? request.outHeight : request.height;
  deliver(request, result.map, request.map, result);
  deliver(request, result.pixelMap, request.pixelMap, result);
  deliver(request, result.featureMap, request.featureMap, result);
  return result;
}

void ScoreLane::deliver(const ScoreRequest& request, std::vector<float>& map, float* to,
                        const ScoreResult& result) const {
  if (map.empty()) return;
  const bool same = result.width == request.width && result.height == request.height;
  if (same && !to) return;
  std::vector<float> own;
  if (!to) own.resize(static_cast<size_t>(result.width) * static_cast<size_t>(result.height));
  float* out = to ? to : own.data();
  if (same)
    std::copy(map.begin(), map.end(), out);
  else
    resizeBilinear(device_->threads(), map.data(), request.width, request.height, out, result.width, result.height);
  map = std::move(own);
}

int64_t ScoreLane::activationBytes() const {
  const auto bytes = [](const std::shared_ptr<DeviceBuffer>& buffer) { return buffer ? buffer->bytes() : int64_t{0}; };
  int64_t activations = bytes(memory_.unet.arena) + bytes(memory_.backbone.arena);
  for (const ScorePass& pass : passes_) activations += pass.ownBytes();
  return activations;
}

}  // namespace ddad
