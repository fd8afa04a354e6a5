// Configurations, as they lie in model files: all readers of them.
#include "file/json_fields.h"
#include "score/score_config.h"
#include "support.h"
#include "train/trainer_config.h"
#include "unet/unet.h"

namespace ddad::fuzz {
namespace {

void run(std::string_view input) {
  const nlohmann::json config = parseJson(input);
  if (!config.is_object()) return;
  mayFail({"ERR_CONFIG"}, [&] { ScoreConfig::fromJson(config); });
  mayFail({"ERR_CONFIG"}, [&] { TrainerConfig::fromJson(config); });
  mayFail({"ERR_CONFIG"}, [&] { FeatureConfig::fromJson(config); });
  mayFail({"ERR_CONFIG"}, [&] {
    const UNet net = buildUNet(UNetConfig::fromJson(requireObject(config, "unet")));
    if (net.graph.parameterFloats() < 1) std::abort();
  });
}

std::vector<std::string> seeds() {
  nlohmann::json respaced = tinyConfig(false), image = tinyConfig(true);
  respaced["score"]["scaleIndexing"] = "respaced";
  respaced["score"]["respacing"] = "ddim10";
  respaced["score"]["scales"] = {1, 9};
  respaced["score"]["kind"] = "rgb";
  respaced["diffusion"] = {{"schedule", "cosine"}, {"steps", 100}, {"respacing", "5,10"}, {"loss", "mse"}};
  respaced["unet"]["numClasses"] = 3;
  respaced["unet"]["numHeadChannels"] = 16;
  respaced["training"] = {{"batchSize", 4},
                          {"betas", {0.9, 0.99}},
                          {"ema", 0.9},
                          {"rotation", 1.5},
                          {"focus", {{"share", 0.5}, {"below", 9}}}};
  image["score"] = {{"scales", {5}},     {"normalization", "per-image"},
                    {"alpha", 0.25},     {"smoothing", 2.5},
                    {"tile", 64},        {"overlap", 16},
                    {"seed", 7},         {"topPixels", {{"share", 0.01}}},
                    {"kind", "ensemble"}};
  image["features"]["scale"] = 2;
  std::vector<std::string> texts;
  for (const auto& config : {tinyConfig(false), tinyConfig(true), respaced, image}) texts.push_back(config.dump());
  return texts;
}

const Registered registered({"config", Format::kJson, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
