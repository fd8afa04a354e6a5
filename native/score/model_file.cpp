#include "score/model_file.h"

#include <algorithm>

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {

nlohmann::json readModelConfig(const SafetensorsFile& file, std::initializer_list<const char*> kinds) {
  const auto text = [&](const char* key) {
    const auto it = file.metadata().find(key);
    return it == file.metadata().end() ? std::string() : it->second;
  };
  const auto refuse = [&](const std::string& why) { throw Error("ERR_MODEL_FORMAT", file.path() + ": " + why); };
  if (text("format") != "ddad-native")
    refuse("expected a ddad-native model, got a safetensors file without that format in its metadata");
  const std::string version = text("formatVersion");
  if (version != "1" && version != "2" && version != "3")
    refuse("expected format version 1 to 3, got \"" + text("formatVersion").substr(0, 20) + "\"");
  const std::string kind = text("kind");
  if (std::none_of(kinds.begin(), kinds.end(), [&](const char* wanted) { return kind == wanted; }))
    refuse("expected a model, got a " + kind.substr(0, 20));
  nlohmann::json config = parseJson(text("config"));
  if (!config.is_object()) refuse("expected a configuration in the metadata");
  return config;
}

const char* formatVersion(const nlohmann::json& config) {
  const auto score = config.find("score");
  const bool evidence =
      score != config.end() && score->is_object() && score->contains("evidence") && !score->at("evidence").is_null();
  if (!evidence) return "1";
  const nlohmann::json& given = score->at("evidence");
  const bool places = given.is_object() && given.contains("placeStride") && !given.at("placeStride").is_null();
  return places ? "3" : "2";
}

std::vector<ScoreConfig> readScoreConfigs(const nlohmann::json& json) {
  const auto products = json.find("products");
  const auto perProduct = json.find("perProduct");
  const auto present = [&](const auto& it) { return it != json.end() && !it->is_null(); };
  if (!present(products) || !present(perProduct)) return {ScoreConfig::fromJson(json)};
  if (!products->is_array() || products->empty())
    throw Error("ERR_CONFIG", "products: expected an array of names, got " + products->dump().substr(0, 80));
  std::vector<ScoreConfig> configs;
  nlohmann::json one = json;
  one.erase("perProduct");
  for (const nlohmann::json& name : *products) {
    const auto found =
        name.is_string() && perProduct->is_object() ? perProduct->find(name.get<std::string>()) : perProduct->end();
    if (found == perProduct->end() || !found->is_object())
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

std::string memoryName(int label) { return "residual_memory." + std::to_string(label); }

const TensorEntry* findMemory(const SafetensorsFile& file, int label, int64_t channels, bool required) {
  const std::string name = memoryName(label);
  const TensorEntry* entry = file.find(name);
  if (!entry && !required) return nullptr;
  if (!entry || channels == 0 || entry->shape.size() != 2 || entry->shape[0] < 1 || entry->shape[0] > kMaxResiduals ||
      entry->shape[1] != channels)
    throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name + ": expected residuals of the model's features");
  return entry;
}

}  // namespace ddad
