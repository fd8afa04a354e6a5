#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "backbone/stored_features.h"
#include "export/export.h"
#include "export/source.h"
#include "file/safetensors_writer.h"

namespace ddad {
namespace {

using nlohmann::json;

/// What the configuration says of the features, and of thresholds that hold only with them, left out.
void removeFeatures(json& config) {
  config["unet"]["featureChannels"] = 0;
  config["features"] = nullptr;
  config["threshold"] = nullptr;
  if (config.contains("score") && config["score"].is_object()) {
    config["score"]["alpha"] = 1;
    config["score"]["memory"] = nullptr;
    config["score"]["evidence"] = nullptr;
  }
  if (config.contains("perProduct") && config["perProduct"].is_object())
    for (json& product : config["perProduct"])
      if (product.is_object()) product["threshold"] = nullptr;
}

/// What keeps the tensors of a file out of an export, by their names; a line for each kind that the file has.
std::vector<std::string> leftOut(const SafetensorsFile& file, bool checkpoint, bool head) {
  const std::map<std::string, std::string> kinds = {
      {"adam_m.", "the optimiser's state"},
      {"model.", "the weights that are not averaged"},
      {"backbone.", "the backbone, whose features the head predicts"},
      {"residual_memory.", "the residuals of good images"},
      {"evidence.", "the features of good images"},
      {"padim.", "the Gaussian of good features"},
  };
  std::vector<std::string> lines;
  for (const auto& [prefix, line] : kinds) {
    const bool has = std::any_of(file.tensors().begin(), file.tensors().end(),
                                 [&, &start = prefix](const TensorEntry& t) { return t.name.starts_with(start); });
    if (has) lines.push_back(line);
  }
  if (!head && file.find(std::string(checkpoint ? "ema." : "") + "feat_rec1.2.weight"))
    lines.emplace_back("the feature head feat_rec1.*");
  return lines;
}

}  // namespace

json exportWeights(const std::string& path, const std::string& out, bool head, const Cancel& cancel) {
  const ExportSource source(path, head);
  json config = source.config();
  config.erase("checkpoint");
  std::map<std::string, std::string> metadata = {
      {"format", "ddad-native"}, {"formatVersion", "1"}, {"kind", "weights"}};
  if (!head) {
    removeFeatures(config);
  } else if (const SafetensorsFile& file = source.file(); file.find("feature_mean")) {
    metadata["featureStatistics"] =
        json{{"mean", file.floats("feature_mean")}, {"std", file.floats("feature_std")}}.dump();
  }
  metadata["config"] = config.dump();

  const Graph& graph = source.net().graph;
  std::vector<TensorToWrite> tensors;
  int64_t parameters = 0, largest = 0;
  for (const ParamSpec& p : graph.params()) {
    tensors.push_back({p.name, DType::kF32, p.shape, nullptr});
    parameters += p.size();
    largest = std::max(largest, p.size());
  }
  SafetensorsWriter writer(out, metadata, tensors);
  const ParameterReader read = source.reader();
  std::vector<float> values(static_cast<size_t>(largest));
  for (const ParamSpec& p : graph.params()) {
    cancel.check();
    read(p, values.data());
    writer.write(values.data(), static_cast<size_t>(p.size()) * sizeof(float));
  }
  writer.commit();
  json file = {{"path", out}, {"bytes", std::filesystem::file_size(out)}};
  return {{"tensors", tensors.size()},
          {"parameters", parameters},
          {"leavesOut", leftOut(source.file(), source.isCheckpoint(), head)},
          {"files", json::array({std::move(file)})}};
}

}  // namespace ddad
