// Golden files of every kind.
#include <bit>

#include "base/cancel.h"
#include "device/device.h"
#include "device/open_device.h"
#include "support.h"
#include "unet/config.h"
#include "unet/unet.h"
#include "verify/verify.h"

namespace ddad::fuzz {
namespace {

using nlohmann::json;

void run(std::string_view input) {
  static MemoryFile file("golden");
  static MemoryFile backbone("backbone");
  static const auto device = openDevice("cpu", 1);
  static bool written = false;
  if (!written) backbone.set(tinyBackboneFile());
  written = true;
  openInput(file, input);
  mayFail({"ERR_MODEL_FORMAT", "ERR_MEMORY"},
          [&] { verifyFile(*device, file.path(), backbone.path(), Cancel()).dump(); });
}

std::string golden(const json& spec, std::vector<SeedTensor> tensors) {
  if (spec.contains("config")) append(buildUNet(UNetConfig::fromJson(spec.at("config"))).graph, "param.", tensors);
  return seedFile({{"spec", spec.dump()}}, std::move(tensors));
}

std::vector<std::string> seeds() {
  const DType ints = DType::kI32;
  json plain = tinyConfig(false).at("unet"), withFeatures = tinyConfig(true).at("unet");
  withFeatures.erase("featureChannels");  // is set from the backbone
  json headed = withFeatures;
  headed["featureChannels"] = tinyFeatures({2, 4});
  std::vector<SeedTensor> diffusion;
  for (const char* name : {"x0", "noise", "z"}) diffusion.push_back({name, {2, 1, 2, 2}, {}});
  diffusion.push_back({"model_output", {2, 2, 2, 2}, {}});
  diffusion.push_back({"t", {2}, {}, ints});
  diffusion.push_back({"betas", {9}, {}, DType::kF64});
  std::vector<SeedTensor> score = {{"x0", {1, 1, 4, 4}, {}},
                                   {"noise", {1, 1, 1, 4, 4}, {}},
                                   {"feature_mean", {20}, {}},
                                   {"feature_std", {20}, std::vector<float>(20, 1.0f)}};
  append(buildUNet(UNetConfig::fromJson(headed)).graph, "param.", score);
  return {
      golden(
          {{"kind", "diffusion"}, {"schedule", "linear"}, {"diffusionSteps", 50}, {"respacing", "9"}, {"loss", "mse"}},
          diffusion),
      golden({{"kind", "unet"}, {"config", plain}},
             {{"x", {1, 1, 4, 4}, {}}, {"dout", {1, 2, 4, 4}, {}}, {"t", {1}, {}, ints}}),
      golden({{"kind", "features"}, {"model", "efficientnet-lite0"}},
             {{"pixels", {1, 3, 16, 16}, {}}, {"input", {1, 3, 16, 16}, {}}}),
      golden({{"kind", "train"},
              {"config", plain},
              {"steps", 1},
              {"batch", 1},
              {"optimizer", "adamw"},
              {"lr", 1e-4},
              {"betas", {0.9, 0.99}},
              {"eps", 1e-8},
              {"weightDecay", 0.01},
              {"lrAnneal", "linear"},
              {"ema", 0.9},
              {"schedule", "linear"},
              {"diffusionSteps", 50},
              {"loss", "mse"}},
             {{"x0", {1, 1, 1, 4, 4}, {}}, {"noise", {1, 1, 1, 4, 4}, {}}, {"t", {1, 1}, {}, ints}}),
      seedFile({{"spec", json{{"kind", "score"},
                              {"config", withFeatures},
                              {"backbone", "efficientnet-lite0"},
                              {"taps", {"block0", "block1"}},
                              {"schedule", "linear"},
                              {"diffusionSteps", 50},
                              {"respacing", nullptr},
                              {"scales", {20}},
                              {"scaleIndexing", "respaced"},
                              {"normalization", "per-image"},
                              {"alpha", 0.5}}
                             .dump()}},
               std::move(score)),
      golden({{"kind", "sample"},
              {"config", plain},
              {"schedule", "linear"},
              {"diffusionSteps", 50},
              {"respacing", "9"},
              {"method", "ddim"},
              {"eta", 0.5},
              {"start", 1}},
             {{"x0", {1, 1, 4, 4}, {}},
              {"noise", {1, 1, 4, 4}, {}},
              {"z", {2, 1, 1, 4, 4}, {}},
              {"trajectory", {2, 1, 1, 4, 4}, {}}}),
      golden({{"kind", "gradient-reconstruction"},
              {"config", plain},
              {"backbone", "efficientnet-lite0"},
              {"taps", {"block0", "block1"}},
              {"schedule", "linear"},
              {"diffusionSteps", 50},
              {"respacing", "9"},
              {"denoiseStep", 2},
              {"rounds", 1},
              {"gradientSteps", 1},
              {"lr", 0.02}},
             {{"x0", {1, 1, 4, 4}, {}},
              {"dims", {2}, {std::bit_cast<float>(1), std::bit_cast<float>(3)}, ints},
              {"mean", {2, 1, 1}, {}},
              {"covariance", {1, 2, 2}, {1, 0, 0, 1}},
              {"trajectory", {1, 1, 1, 4, 4}, {}}}),
  };
}

const Registered registered({"verify", Format::kSafetensors, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
