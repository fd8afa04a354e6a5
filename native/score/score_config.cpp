#include "score/score_config.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {
namespace {

using nlohmann::json;

std::vector<double> numbers(const json& object, const char* name, size_t count) {
  std::vector<double> values;
  const auto it = object.find(name);
  if (it != object.end() && it->is_array())
    for (const json& v : *it)
      if (v.is_number()) values.push_back(v.get<double>());
  if (values.size() != count)
    throw Error("ERR_CONFIG", std::string("calibration.") + name + ": expected " + std::to_string(count) +
                                  " numbers, got " + (it == object.end() ? "nothing" : it->dump().substr(0, 80)));
  return values;
}

PositionGrid readGrid(const json& position, const char* mean, const char* std, size_t count) {
  PositionGrid grid;
  for (const auto& [name, values] : {std::pair{mean, &grid.mean}, std::pair{std, &grid.std}})
    for (double v : numbers(position, name, count)) values->push_back(static_cast<float>(v));
  for (float s : grid.std)
    if (!(s > 0)) throw Error("ERR_CONFIG", std::string("calibration.position.") + std + ": expected positive numbers");
  return grid;
}

const std::map<std::string, ScoreKind> kKinds = {{"ensemble", ScoreKind::kEnsemble},
                                                 {"pixel", ScoreKind::kPixel},
                                                 {"feature", ScoreKind::kFeature},
                                                 {"rgb", ScoreKind::kRgb},
                                                 {"padim", ScoreKind::kPadim}};

std::vector<int> readSteps(const json& score, const Schedule& schedule) {
  std::vector<int> steps;
  const auto it = score.find("scales");
  if (it != score.end() && it->is_array())
    for (const json& v : *it) {
      if (!v.is_number_integer() || v.get<int64_t>() < 0 || v.get<int64_t>() >= schedule.steps())
        throw Error("ERR_CONFIG", "score.scales: expected integers from 0 to " + std::to_string(schedule.steps() - 1) +
                                      ", got " + v.dump().substr(0, 40));
      steps.push_back(v.get<int>());
    }
  if (steps.empty() || steps.size() > 64)
    throw Error("ERR_CONFIG", "score.scales: expected 1 to 64 noise scales, got " + std::to_string(steps.size()));
  return steps;
}

}  // namespace

ScoreConfig ScoreConfig::fromJson(const json& config) {
  ScoreConfig c;
  c.unet = UNetConfig::fromJson(requireObject(config, "unet"));
  const json& diffusion = requireObject(config, "diffusion");
  const json& score = requireObject(config, "score");
  const std::string indexing = stringField(score, "scaleIndexing", "original");
  if (indexing != "original" && indexing != "respaced")
    throw Error("ERR_CONFIG", "score.scaleIndexing: expected original or respaced, got " + indexing);
  const std::string respacing = indexing == "respaced" ? stringField(score, "respacing", "") : "";
  c.schedule = makeSchedule(stringField(diffusion, "schedule", "linear"),
                            static_cast<int>(integerField(diffusion, "steps", 2, 100000, 1000)), respacing);
  c.steps = readSteps(score, c.schedule);

  c.features = FeatureConfig::fromJson(config);
  c.alpha = !c.features ? 1.0 : numberField(score, "alpha", 0, 1, 0.5);

  const std::string kind = stringField(score, "kind", "ensemble");
  const auto known = kKinds.find(kind);
  if (known == kKinds.end())
    throw Error("ERR_CONFIG", "score.kind: expected ensemble, pixel, feature, rgb or padim, got " + kind);
  c.kind = known->second;
  if (c.kind == ScoreKind::kFeature && !c.features)
    throw Error("ERR_CONFIG", "score.kind: feature: the model has no features");

  const auto padim = config.find("padim");
  if (c.kind == ScoreKind::kPadim && (!c.features || padim == config.end() || padim->is_null()))
    throw Error("ERR_CONFIG", "score.kind: padim: the model has no Gaussian of good features");

  const auto memory = score.find("memory");
  c.remembers = memory != score.end() && !memory->is_null();
  if (c.remembers && !c.features) throw Error("ERR_CONFIG", "score.memory: goes with features only");

  const std::string normalization = stringField(score, "normalization", "calibration");
  const auto calibration = config.find("calibration");
  if (normalization == "per-image") {
    c.normalization = Normalization::kPerImage;
    if (c.kind == ScoreKind::kRgb) throw Error("ERR_CONFIG", "score.kind: rgb has no per-image normalisation");
  } else if (normalization == "calibration") {
    // a model that has not been calibrated yet scores unnormalised: that is how calibration begins
    if (calibration != config.end() && !calibration->is_null()) {
      c.normalization = Normalization::kCalibration;
      c.mean = numbers(*calibration, "pixelMean", c.steps.size());
      c.std = numbers(*calibration, "pixelStd", c.steps.size());
      if (c.features) {
        c.featureMean = numbers(*calibration, "featureMean", c.steps.size());
        c.featureStd = numbers(*calibration, "featureStd", c.steps.size());
      }
      if (c.kind == ScoreKind::kRgb) {
        c.rgbMean = numbers(*calibration, "rgbMean", c.steps.size());
        c.rgbStd = numbers(*calibration, "rgbStd", c.steps.size());
      }
      for (const auto& [name, values] :
           {std::pair{"pixelStd", &c.std}, std::pair{"featureStd", &c.featureStd}, std::pair{"rgbStd", &c.rgbStd}})
        for (double s : *values)
          if (!(s > 0)) throw Error("ERR_CONFIG", std::string("calibration.") + name + ": expected positive numbers");
      if (c.remembers) {
        c.memoryWeight = numberField(*memory, "weight", 0, 1, 0);
        c.memoryMean = numberField(*calibration, "memoryMean", -1e30, 1e30, 0);
        c.memoryStd = numberField(*calibration, "memoryStd", 1e-30, 1e30, 0);
        if (!calibration->contains("memoryMean") || !calibration->contains("memoryStd"))
          throw Error("ERR_CONFIG", "calibration.memoryMean, memoryStd: expected numbers, got nothing");
      }
      const auto position = calibration->find("position");
      if (position != calibration->end() && !position->is_null()) {
        c.gridWidth = integerField(*position, "width", 1, 4096);
        c.gridHeight = integerField(*position, "height", 1, 4096);
        const auto count = static_cast<size_t>(c.gridWidth * c.gridHeight);
        c.pixelGrid = readGrid(*position, "pixelMean", "pixelStd", count);
        if (c.features) c.featureGrid = readGrid(*position, "featureMean", "featureStd", count);
      }
    }
  } else if (normalization != "none") {
    throw Error("ERR_CONFIG", "score.normalization: expected calibration, per-image or none, got " + normalization);
  }

  c.evidence = EvidenceConfig::fromJson(config, c.features);
  if (c.kind != ScoreKind::kEnsemble) c.evidence = EvidenceConfig();  // another kind is judged by itself alone
  if (c.evidence && c.normalization == Normalization::kPerImage)
    throw Error("ERR_CONFIG", "score.evidence: expected null with normalization per-image");

  c.smoothing = numberField(score, "smoothing", 0, 100, 0);
  c.seed = static_cast<uint64_t>(integerField(score, "seed", 0, int64_t{1} << 53, 0));
  const auto top = score.find("topPixels");
  if (top != score.end() && !top->is_null()) {
    if (!top->is_object()) throw Error("ERR_CONFIG", "score.topPixels: expected {\"count\"} or {\"share\"}");
    if (top->contains("share")) {
      c.topCount = 0;
      c.topShare = numberField(*top, "share", 1e-9, 1, 1);
    } else {
      c.topCount = integerField(*top, "count", 1, int64_t{1} << 40);
    }
  }
  c.tile = integerField(score, "tile", 32, 4096, c.tile);
  c.overlap = integerField(score, "overlap", 0, c.tile / 2, std::min(c.overlap, c.tile / 4));
  return c;
}

MapSource ScoreConfig::source() const {
  if (kind == ScoreKind::kFeature) return MapSource::kFeature;
  if (kind == ScoreKind::kPadim || evidence) return MapSource::kBoth;
  if (kind != ScoreKind::kEnsemble || !features) return MapSource::kPixel;
  if (normalization == Normalization::kPerImage) return MapSource::kBoth;
  return alpha == 1 ? MapSource::kPixel : alpha == 0 ? MapSource::kFeature : MapSource::kBoth;
}

}  // namespace ddad
