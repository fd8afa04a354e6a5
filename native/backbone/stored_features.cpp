#include "backbone/stored_features.h"

#include <cstring>

#include "base/error.h"
#include "graph/parameters.h"

namespace ddad {
namespace {

constexpr const char* kPrefix = "backbone.";

}  // namespace

void appendFeatures(const FeatureSource& source, std::vector<TensorToWrite>& tensors,
                    std::map<std::string, std::string>& metadata) {
  appendParameters(source.backbone.graph, kPrefix, source.block.values.data(), tensors);
  appendStyle(source.backbone.style, kPrefix, metadata);
  tensors.push_back({"feature_mean", DType::kF32, {source.channels()}, source.mean.data()});
  tensors.push_back({"feature_std", DType::kF32, {source.channels()}, source.std.data()});
}

FeatureSource readFeatures(const SafetensorsFile& file, const FeatureConfig& config) {
  FeatureSource source = openFeatures(file, kPrefix, config);
  const int64_t shape[] = {source.channels()};
  file.readFloats("feature_mean", shape, source.mean.data());
  file.readFloats("feature_std", shape, source.std.data());
  for (float s : source.std)
    if (!(s > 0)) throw Error("ERR_MODEL_FORMAT", file.path() + ": feature_std: expected positive numbers");
  return source;
}

void readFeatures(const SafetensorsFile& file, const FeatureConfig& config, FeatureSource& source) {
  const FeatureSource next = readFeatures(file, config);
  const BackboneStyle &before = source.backbone.style, &after = next.backbone.style;
  const bool alike = after.padding == before.padding && after.activation == before.activation;
  if (!alike || next.block.values.bytes() != source.block.values.bytes() || next.channels() != source.channels())
    throw Error("ERR_MODEL_FORMAT", file.path() + ": its backbone is not the one that this run has");
  std::memcpy(source.block.values.data(), next.block.values.data(), static_cast<size_t>(next.block.values.bytes()));
  source.mean = next.mean;
  source.std = next.std;
}

}  // namespace ddad
