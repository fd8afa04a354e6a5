#pragma once
// What a model file says beside its weights.
#include <initializer_list>
#include <string>
#include <vector>

#include "file/safetensors.h"
#include "nlohmann/json.hpp"
#include "score/score_config.h"

namespace ddad {

/// Most residuals that a memory holds.
constexpr int64_t kMaxResiduals = int64_t{1} << 22;

/// The configuration in the metadata of a file of one of these kinds ("model", say). Throws ERR_MODEL_FORMAT.
nlohmann::json readModelConfig(const SafetensorsFile& file, std::initializer_list<const char*> kinds);

/// The format version of a model of this configuration: 3 where places have Gaussians, 2 where its score has other
/// evidence, else 1. Builds that do not know a version would judge by less.
const char* formatVersion(const nlohmann::json& config);

/// How a model scores: one configuration, or one for each product where these have calibrations of their own. Throws
/// ERR_CONFIG.
std::vector<ScoreConfig> readScoreConfigs(const nlohmann::json& json);

/// Name of the tensor with the residuals of good images of a label.
std::string memoryName(int label);
/// That tensor, [count, channels]; null where the file has none and none is `required`. Throws ERR_MODEL_FORMAT.
const TensorEntry* findMemory(const SafetensorsFile& file, int label, int64_t channels, bool required);

}  // namespace ddad
