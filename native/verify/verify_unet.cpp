// Golden files of kind "unet": output, gradient of the input and of every parameter.
#include <algorithm>

#include "graph/parameters.h"
#include "graph/plan.h"
#include "unet/unet.h"
#include "verify/compare.h"
#include "verify/verify.h"

namespace ddad {
namespace {

constexpr double kOutputTolerance = 1e-4, kGradientTolerance = 1e-3;

}  // namespace

void verifyUnet(VerifyContext& context) {
  const SafetensorsFile& file = context.file;
  Comparison& compare = context.comparison;
  const UNet net = buildUNet(UNetConfig::fromJson(context.spec.at("config")));
  const Graph& graph = net.graph;
  for (const char* name : {"x", "t", "y", "dout", "param.*"}) compare.input(name);

  checkParameters(graph, file, "param.");
  ParameterBlock block(AlignedBuffer(graph.parameterFloats()), AlignedBuffer(graph.parameterFloats()));
  readParameters(graph, file, "param.", block.values.data());
  const std::vector<int64_t> shape = file.get("x").shape;
  if (shape.size() != 4)
    throw Error("ERR_MODEL_FORMAT", file.path() + ": x: expected [N, C, H, W], got " + shapeText(shape));
  PlanOptions options;
  options.batch = shape[0];
  options.height = shape[2];
  options.width = shape[3];
  options.training = options.inputGradients = true;
  Plan plan(context.device, graph, options, block);

  const int64_t pixels = shape[2] * shape[3];
  const auto readImage = [&](const char* name, TensorId id) {
    const int64_t channels = graph.tensor(id).channels;
    const std::vector<int64_t> expected = {shape[0], channels, shape[2], shape[3]};
    std::vector<float> values(static_cast<size_t>(plan.shape(id).size()));
    file.readFloats(name, expected, values.data());
    return toNhwc(values, shape[0], channels, pixels);
  };
  const auto copyVector = [&](const char* name, TensorId id, int64_t limit) {
    const auto values = file.ints(name);
    if (static_cast<int64_t>(values.size()) != shape[0])
      throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name + ": expected one value a sample");
    for (const int32_t value : values)
      if (value < 0 || value >= limit)
        throw Error("ERR_MODEL_FORMAT", file.path() + ": " + name + ": expected 0 to " + std::to_string(limit - 1));
    const std::vector<float> floats(values.begin(), values.end());
    plan.write(id, floats.data());
  };
  plan.write(net.x, readImage("x", net.x).data());
  copyVector("t", net.t, 1000000);
  if (net.y >= 0) copyVector("y", net.y, UNetConfig::fromJson(context.spec.at("config")).numClasses);

  plan.prepare();
  plan.forward(context.cancel);
  const auto checkImage = [&](const char* name, TensorId id, const float* onDevice, double tolerance) {
    const int64_t channels = graph.tensor(id).channels;
    const std::vector<int64_t> expected = {shape[0], channels, shape[2], shape[3]};
    compare.check(name, toNchw(hostCopy(context.device, onDevice, plan.shape(id).size()), shape[0], channels, pixels),
                  expected, tolerance);
  };
  checkImage("out", net.out, plan.value(net.out), kOutputTolerance);

  plan.writeGradient(net.out, readImage("dout", net.out).data());
  plan.backward(context.cancel);
  checkImage("grad.x", net.x, plan.gradient(net.x), kGradientTolerance);
  block.downloadGradients();
  for (const ParamSpec& p : graph.params()) {
    const std::span<const float> gradient(block.gradients.data() + p.offset, static_cast<size_t>(p.size()));
    compare.check("grad." + p.name, gradient, p.shape, kGradientTolerance);
  }
}

}  // namespace ddad
