// Training checkpoints: everything that a later run needs to go on as if it had not stopped.
#include <cstring>

#include "backbone/stored_features.h"
#include "file/digest.h"
#include "file/json_fields.h"
#include "graph/parameters.h"
#include "score/model_file.h"
#include "train/trainer_impl.h"

namespace ddad {

void TrainerImpl::writeCheckpoint(const std::string& path, const nlohmann::json& metadata) {
  std::vector<TensorToWrite> tensors;
  HostBlock ema, m, v;
  appendParameters(net_.graph, "model.", weights(), tensors);
  appendParameters(net_.graph, "ema.", ema.of(plan_->parameters(), ema_), tensors);
  appendParameters(net_.graph, "adam_m.", m.of(plan_->parameters(), m_), tensors);
  appendParameters(net_.graph, "adam_v.", v.of(plan_->parameters(), v_), tensors);
  std::map<std::string, std::string> texts = {{"format", "ddad-native"},
                                              {"formatVersion", formatVersion(metadata)},
                                              {"kind", "checkpoint"},
                                              {"step", std::to_string(steps_)},
                                              {"config", metadata.dump()}};
  if (features_) appendFeatures(*features_, tensors, texts);
  writeSafetensors(path, texts, tensors);
}

nlohmann::json TrainerImpl::readCheckpoint(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto text = [&](const char* key) {
    const auto it = file.metadata().find(key);
    return it == file.metadata().end() ? std::string() : it->second;
  };
  const auto refuse = [&](const std::string& why) { throw Error("ERR_MODEL_FORMAT", path + ": " + why); };
  const bool known = text("formatVersion") == "1" || text("formatVersion") == "2" || text("formatVersion") == "3";
  if (text("format") != "ddad-native" || !known || text("kind") != "checkpoint")
    refuse("expected a ddad-native checkpoint of format version 1 to 3, got " +
           (text("kind").empty() ? "another file" : "a " + text("kind")));
  const std::string step = text("step");
  if (step.empty() || step.size() > 15 || step.find_first_not_of("0123456789") != std::string::npos)
    refuse("expected a step number in the metadata, got \"" + step.substr(0, 20) + "\"");
  DigestCheck digest(file);
  nlohmann::json config = parseJson(text("config"));
  if (!config.is_object()) refuse("expected a configuration in the metadata");
  // read everything before anything is replaced, and look at what is there before memory is taken
  for (const char* prefix : {"model.", "ema.", "adam_m.", "adam_v."}) checkParameters(net_.graph, file, prefix);
  const int64_t n = net_.graph.parameterFloats();
  AlignedBuffer values(n), ema(n), m(n), v(n);
  readParameters(net_.graph, file, "model.", values.data());
  readParameters(net_.graph, file, "ema.", ema.data());
  readParameters(net_.graph, file, "adam_m.", m.data());
  readParameters(net_.graph, file, "adam_v.", v.data());
  digest.finish();
  const CancelScope whole(nullptr);  // from here on the trainer changes
  if (features_) {
    readFeatures(file, config_.features, *features_);
    features_->block.upload();
    extractor_->plan().prepare();
    if (cache_) cache_->clear();
  }
  // the plan points into the parameter block: copy, do not swap
  std::memcpy(parameters_.values.data(), values.data(), static_cast<size_t>(values.bytes()));
  parameters_.upload();
  plan_->parameters().toDevice(ema.data(), ema_.data());
  plan_->parameters().toDevice(m.data(), m_.data());
  plan_->parameters().toDevice(v.data(), v_.data());
  steps_ = std::stoll(step);
  return config;
}

}  // namespace ddad
