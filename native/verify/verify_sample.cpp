// Golden files of kind "sample": the reverse process from noise or from an image.
#include "base/error.h"
#include "file/json_fields.h"
#include "file/safetensors.h"
#include "reverse/reverse_chain.h"
#include "verify/compare.h"
#include "verify/golden_spec.h"

namespace ddad {
namespace {

constexpr double kTolerance = 1e-3;

}  // namespace

void verifySample(VerifyContext& context) {
  const nlohmann::json& spec = context.spec;
  GoldenNet golden = goldenNet(context);
  ReverseSettings settings;
  settings.schedule = specSchedule(context);
  const std::string method = spec.at("method");
  if (method != "ddpm" && method != "ddim")
    throw Error("ERR_MODEL_FORMAT", context.file.path() + ": method: expected ddpm or ddim, got " + method);
  settings.ddim = method == "ddim";
  settings.eta = numberField(spec, "eta", 0, 1, 0);
  settings.clip = booleanField(spec, "clipDenoised", true);
  const int last = settings.schedule.steps() - 1;
  const bool fromNoise = spec.at("start") == "noise";
  settings.start = fromNoise ? last : static_cast<int>(integerField(spec, "start", 0, last));

  const ImagesShape shape = imagesShape(context, fromNoise ? "x_start_noise" : "x0", golden.config.inChannels);
  const int steps = settings.start + 1;
  const auto z = goldenImages(context, "z", shape, steps);
  const int64_t trajectoryShape[] = {steps, shape.n, shape.c, shape.h, shape.w};
  context.file.checkShape("trajectory", trajectoryShape);
  ReverseChain chain(context.device, golden.net, golden.parameters, settings, shape.n, shape.h, shape.w);
  const std::vector<int32_t> labels = goldenLabels(context, golden.config, shape.n);
  for (size_t i = 0; i < labels.size(); ++i) chain.setLabel(static_cast<int64_t>(i), labels[i]);
  const int64_t floats = shape.n * shape.elements();
  UploadBuffer upload(context.device, floats);
  const std::vector<uint32_t> samples(static_cast<size_t>(shape.n));
  if (fromNoise) {
    const auto noise = goldenImages(context, "x_start_noise", shape);
    chain.startFromNoise(samples.data(), upload.upload(noise.data(), floats));
  } else {
    const auto x0 = goldenImages(context, "x0", shape);
    std::copy(x0.begin(), x0.end(), chain.image(0));
    const auto noise = goldenImages(context, "noise", shape);
    chain.startFromImages(samples.data(), upload.upload(noise.data(), floats));
  }

  const auto now = [&] {
    return toNchw(hostCopy(context.device, chain.imageOnDevice(0), floats), shape.n, shape.c, shape.pixels());
  };
  std::vector<float> trajectory;
  for (int i = 0; i < steps; ++i) {
    chain.step(context.cancel, upload.upload(z.data() + i * floats, floats));
    const std::vector<float> x = now();
    trajectory.insert(trajectory.end(), x.begin(), x.end());
  }
  context.comparison.check("trajectory", std::span<const float>(trajectory), trajectoryShape, kTolerance);
  context.comparison.check("out", std::span<const float>(now()), shape.dims(), kTolerance);
}

}  // namespace ddad
