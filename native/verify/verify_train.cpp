// Golden files of kind "train": losses, gradient norms, and how far the weights and their average moved.
#include <algorithm>

#include "base/aligned_buffer.h"
#include "file/json_fields.h"
#include "graph/parameters.h"
#include "train/trainer.h"
#include "unet/unet.h"
#include "verify/compare.h"
#include "verify/verify.h"

namespace ddad {
namespace {

constexpr double kTolerance = 1e-4, kMovementTolerance = 1e-2;

nlohmann::json trainerConfig(const nlohmann::json& spec, int64_t size) {
  const std::string anneal = spec.at("lrAnneal");
  if (spec.at("optimizer") != "adamw" || anneal.rfind("linear", 0) != 0)
    throw Error("ERR_MODEL_FORMAT", "spec: expected adamw with a linearly annealed learning rate");
  return {{"unet", spec.at("config")},
          {"diffusion",
           {{"schedule", spec.at("schedule")},
            {"steps", spec.at("diffusionSteps")},
            {"respacing", spec.value("respacing", nlohmann::json())},
            {"loss", spec.at("loss")}}},
          {"input", {{"size", size}}},
          {"training",
           {{"batchSize", spec.at("batch")},
            {"betas", spec.at("betas")},
            {"eps", spec.at("eps")},
            {"weightDecay", spec.at("weightDecay")},
            {"ema", spec.at("ema")},
            {"emaWarmup", false}}}};
}

}  // namespace

void verifyTrain(VerifyContext& context) {
  const SafetensorsFile& file = context.file;
  const nlohmann::json& spec = context.spec;
  Comparison& compare = context.comparison;
  for (const char* name : {"x0", "noise", "t", "y", "param.*"}) compare.input(name);

  const std::vector<int64_t> shape = file.get("x0").shape;  // [steps, batch, C, H, W]
  const int64_t steps = integerField(spec, "steps", 1, 1 << 20), batch = integerField(spec, "batch", 1, 4096);
  const UNetConfig unet = UNetConfig::fromJson(spec.at("config"));
  if (shape.size() != 5 || shape[0] != steps || shape[1] != batch || shape[2] != unet.inChannels || shape[3] < 1 ||
      shape[3] != shape[4])
    throw Error("ERR_MODEL_FORMAT", file.path() + ": x0: expected [" + std::to_string(steps) + ", " +
                                        std::to_string(batch) + ", " + std::to_string(unet.inChannels) +
                                        ", size, size], got " + shapeText(shape));
  checkParameters(buildUNet(unet).graph, file, "param.");
  Trainer trainer(context.device.shared_from_this(), trainerConfig(spec, shape[3]));
  const Graph& graph = trainer.graph();
  AlignedBuffer start(graph.parameterFloats());
  readParameters(graph, file, "param.", start.data());
  trainer.setWeights(start.data());

  const std::vector<float> x0 = file.floats("x0"), noise = file.floats("noise");
  const std::vector<int32_t> t = file.ints("t"), y = file.find("y") ? file.ints("y") : std::vector<int32_t>();
  if (noise.size() != x0.size() || static_cast<int64_t>(t.size()) != steps * batch ||
      (!y.empty() && y.size() != t.size()))
    throw Error("ERR_MODEL_FORMAT", file.path() + ": noise, t or y: expected as many as x0 has");
  const auto stepFloats = static_cast<size_t>(trainer.batchFloats());
  const double lr = spec.at("lr");
  std::vector<float> losses, norms;
  for (int64_t i = 0; i < steps; ++i) {
    const auto part = [&](const std::vector<float>& all) {
      return toNhwc({all.data() + static_cast<size_t>(i) * stepFloats, stepFloats}, batch, shape[2],
                    shape[3] * shape[4]);
    };
    const double annealed = lr * (1.0 - static_cast<double>(i) / static_cast<double>(steps));
    const StepResult r = trainer.stepWithNoise(part(x0).data(), y.empty() ? nullptr : y.data() + i * batch,
                                               t.data() + i * batch, part(noise).data(), annealed, context.cancel);
    for (double value : {r.loss, r.mse, r.vb}) losses.push_back(static_cast<float>(value));
    norms.push_back(static_cast<float>(r.gradNorm));
  }
  const int64_t lossShape[] = {steps, 3}, normShape[] = {steps};
  compare.check("losses", std::span<const float>(losses), lossShape, kTolerance);
  compare.check("grad_norms", std::span<const float>(norms), normShape, kTolerance);
  const float *weights = trainer.weights(), *averaged = trainer.averagedWeights();
  for (const ParamSpec& p : graph.params())
    for (const auto& [prefix, block] : {std::pair{"movement.", weights}, {"ema_movement.", averaged}}) {
      std::vector<float> moved(static_cast<size_t>(p.size()));
      for (size_t i = 0; i < moved.size(); ++i) {
        const int64_t at = p.offset + static_cast<int64_t>(i);
        moved[i] = block[at] - start.data()[at];
      }
      compare.check(prefix + p.name, std::span<const float>(moved), p.shape, kMovementTolerance);
    }
}

}  // namespace ddad
