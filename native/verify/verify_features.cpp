// Golden files of kind "features": the backbone's taps.
#include <algorithm>

#include "backbone/efficientnet.h"
#include "file/checkpoint/checkpoint.h"
#include "file/safetensors.h"
#include "graph/plan.h"
#include "verify/compare.h"
#include "verify/verify.h"

namespace ddad {
namespace {

constexpr double kTolerance = 1e-4;

}  // namespace

void verifyFeatures(VerifyContext& context) {
  const SafetensorsFile& file = context.file;
  Comparison& compare = context.comparison;
  compare.input("pixels");
  const nlohmann::json& model = context.spec.at("model");
  if (!model.is_string() || !model.get<std::string>().starts_with("efficientnet-"))
    throw Error("ERR_MODEL_FORMAT", file.path() + ": model: expected a name like efficientnet-lite0");
  Backbone net = loadBackbone(*openTensorSource(context.backbonePath));

  const std::vector<int64_t> shape = file.get("input").shape;
  if (shape.size() != 4 || shape[1] != 3)
    throw Error("ERR_MODEL_FORMAT", file.path() + ": input: expected [N, 3, H, W], got " + shapeText(shape));
  ParameterBlock block(std::move(net.parameters));
  PlanOptions options;
  options.batch = shape[0];
  options.height = shape[2];
  options.width = shape[3];
  options.float32 = true;
  Plan plan(context.device, net.graph, options, block);
  // the input follows from the pixels as the weights were trained: (pixel - 127) / 128
  std::vector<float> pixels(static_cast<size_t>(plan.shape(net.input).size()));
  file.readFloats("pixels", shape, pixels.data());
  for (float& p : pixels) p = (p - 127.0f) / 128.0f;
  compare.check("input", std::span<const float>(pixels), shape, kTolerance);
  const auto nhwc = toNhwc(pixels, shape[0], 3, shape[2] * shape[3]);
  plan.write(net.input, nhwc.data());
  plan.prepare();
  plan.forward(context.cancel);
  for (const Backbone::Tap& tap : net.taps) {
    const Shape& s = plan.shape(tap.tensor);
    const std::vector<int64_t> expected = {s.n, s.c, s.h, s.w};
    compare.check(tap.name, toNchw(hostCopy(context.device, plan.value(tap.tensor), s.size()), s.n, s.c, s.h * s.w),
                  expected, kTolerance);
  }
}

}  // namespace ddad
