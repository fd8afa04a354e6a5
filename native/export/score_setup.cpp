#include "export/score_setup.h"

#include <algorithm>
#include <numeric>

#include "backbone/stored_features.h"
#include "base/error.h"
#include "file/json_fields.h"
#include "score/model_file.h"

namespace ddad {
namespace {

[[noreturn]] void refuse(const std::string& option, const std::string& why) {
  throw Error("ERR_OPTION", "option \"" + option + "\": " + why);
}

}  // namespace

ScoreSetup openScoreSetup(const ExportSource& source, const OnnxOptions& options) {
  if (source.isCheckpoint())
    refuse("graph", "score needs a model, which is calibrated; of a checkpoint there is the graph unet");
  const nlohmann::json& json = options.config.is_null() ? source.config() : options.config;
  if (json.value("unet", nlohmann::json()) != source.config().at("unet"))
    throw Error("ERR_CONFIG", "unet: expected the network that the model has; its structure cannot change");
  const std::vector<ScoreConfig> configs = readScoreConfigs(json);
  const int64_t classes = configs[0].unet.numClasses;
  if (options.label < 0 || options.label >= std::max<int64_t>(classes, 1))
    throw Error("ERR_ARGUMENT", "label: expected 0 to " + std::to_string(std::max<int64_t>(classes, 1) - 1) + ", got " +
                                    std::to_string(options.label));

  ScoreSetup setup;
  setup.label = options.label;
  setup.constantNoise = options.constantNoise;
  setup.config = configs[configs.size() > 1 ? static_cast<size_t>(options.label) : 0];
  const ScoreConfig& config = setup.config;
  int64_t featureUnit = 1;
  if (config.features) {
    setup.features = std::make_unique<FeatureSource>(readFeatures(source.file(), config.features));
    setup.scale = setup.features->scale;
    featureUnit = setup.features->unit();
    if (setup.features->channels() != config.unet.featureChannels)
      throw Error("ERR_MODEL_FORMAT", source.file().path() + ": unet.featureChannels: the backbone's taps have " +
                                          std::to_string(setup.features->channels()) + " channels, got " +
                                          std::to_string(config.unet.featureChannels));
    const TensorEntry* memory =
        findMemory(source.file(), options.label, setup.features->channels(), config.memoryWeight > 0);
    if (memory && config.memoryWeight > 0) {
      setup.residuals.resize(static_cast<size_t>(memory->count()));
      source.file().readFloats(memory->name, memory->shape, setup.residuals.data());
    }
  }

  const int64_t unit = std::lcm(setup.scale << source.net().graph.maxLevel(), featureUnit);
  const int64_t modelSide = integerField(requireObject(json, "input"), "size", 1, 65536) * setup.scale;
  const int64_t width = options.width > 0 ? options.width : modelSide,
                height = options.height > 0 ? options.height : modelSide;
  if (width % unit != 0 || height % unit != 0 || width > config.tile || height > config.tile)
    refuse("size", "expected a width and height that are multiples of " + std::to_string(unit) + ", at most " +
                       std::to_string(config.tile) + " (the engine scores larger images in tiles), got " +
                       std::to_string(width) + " x " + std::to_string(height));
  setup.width = width / setup.scale;
  setup.height = height / setup.scale;
  return setup;
}

}  // namespace ddad
