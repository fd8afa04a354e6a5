#include "verify/golden_spec.h"

#include <algorithm>
#include <optional>

#include "backbone/efficientnet.h"
#include "base/error.h"
#include "file/checkpoint/checkpoint.h"
#include "file/json_fields.h"
#include "file/safetensors.h"
#include "graph/parameters.h"
#include "verify/compare.h"

namespace ddad {
namespace {

[[noreturn]] void refuse(const VerifyContext& context, const std::string& why) {
  throw Error("ERR_MODEL_FORMAT", context.file.path() + ": " + why);
}

}  // namespace

std::vector<int64_t> tapStrides(const VerifyContext& context) {
  const nlohmann::json& spec = context.spec;
  if (spec.at("backbone") != "efficientnet-lite0") refuse(context, "backbone: expected efficientnet-lite0");
  const Backbone all = loadBackbone(*openTensorSource(context.backbonePath));
  std::vector<int64_t> strides;
  for (const nlohmann::json& name : spec.at("taps"))
    for (const Backbone::Tap& tap : all.taps)
      if (name == tap.name) strides.push_back(int64_t{1} << tap.level);
  if (strides.size() != spec.at("taps").size() || strides.empty())
    refuse(context, "taps: expected names of the backbone's taps");
  return strides;
}

Schedule specSchedule(const VerifyContext& context) {
  const nlohmann::json respacing = context.spec.value("respacing", nlohmann::json());
  return makeSchedule(context.spec.at("schedule"),
                      static_cast<int>(integerField(context.spec, "diffusionSteps", 2, 100000)),
                      respacing.is_null() ? std::nullopt : std::optional<std::string>(respacing.get<std::string>()));
}

GoldenNet goldenNet(const VerifyContext& context) {
  context.comparison.input("param.*");
  GoldenNet golden;
  golden.config = UNetConfig::fromJson(context.spec.at("config"));
  golden.net = buildUNet(golden.config);
  checkParameters(golden.net.graph, context.file, "param.");
  golden.parameters.values = AlignedBuffer(golden.net.graph.parameterFloats());
  readParameters(golden.net.graph, context.file, "param.", golden.parameters.values.data());
  return golden;
}

ImagesShape imagesShape(const VerifyContext& context, const char* name, int64_t channels) {
  const std::vector<int64_t> shape = context.file.get(name).shape;
  if (shape.size() != 4 || shape[1] != channels || *std::ranges::min_element(shape) < 1)
    refuse(context,
           std::string(name) + ": expected [N, " + std::to_string(channels) + ", H, W], got " + shapeText(shape));
  return {shape[0], shape[1], shape[2], shape[3]};
}

std::vector<float> goldenImages(const VerifyContext& context, const char* name, const ImagesShape& shape,
                                int64_t count) {
  context.comparison.input(name);
  std::vector<int64_t> expected = shape.dims();
  if (count > 0) expected.insert(expected.begin(), count);
  context.file.checkShape(name, expected);
  return toNhwc(context.file.floats(name), std::max<int64_t>(count, 1) * shape.n, shape.c, shape.pixels());
}

std::vector<int32_t> goldenLabels(const VerifyContext& context, const UNetConfig& config, int64_t n) {
  context.comparison.input("y");
  if (config.numClasses == 0) return {};
  std::vector<int32_t> labels = context.file.ints("y");
  if (static_cast<int64_t>(labels.size()) != n ||
      !std::ranges::all_of(labels, [&](int32_t y) { return y >= 0 && y < config.numClasses; }))
    refuse(context, "y: expected a label below " + std::to_string(config.numClasses) + " for each of " +
                        std::to_string(n) + " images");
  return labels;
}

}  // namespace ddad
