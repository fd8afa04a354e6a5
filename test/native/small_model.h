#pragma once
#include <string>

#include "nlohmann/json.hpp"

namespace ddad::testing {

/// A configuration small enough for tests: 32 channels, two levels, attention in the middle only.
inline nlohmann::json smallModel(int64_t size, int64_t batch, int64_t channels = 1) {
  return {{"unet",
           {{"imageSize", size},
            {"inChannels", channels},
            {"modelChannels", 32},
            {"outChannels", 2 * channels},
            {"numResBlocks", 1},
            {"attentionResolutions", nlohmann::json::array()},
            {"channelMult", {1, 2}},
            {"numHeadChannels", 32},
            {"useScaleShiftNorm", true},
            {"resblockUpdown", true}}},
          {"diffusion", {{"schedule", "linear"}, {"steps", 1000}, {"loss", "rescaled_mse"}}},
          {"input", {{"mode", "crop"}, {"size", size}, {"channels", channels}}},
          {"score", {{"scales", {20, 200}}, {"normalization", "none"}, {"tile", 32}, {"overlap", 8}}},
          {"calibration", nullptr},
          {"threshold", nullptr},
          {"training", {{"seed", 3}, {"batchSize", batch}}}};
}

/// The same with a third level and the features of the packaged backbone at stride 2, 4 and 8.
inline nlohmann::json featureModel(int64_t size, int64_t batch, int64_t channels = 1) {
  nlohmann::json model = smallModel(size, batch, channels);
  model["unet"]["channelMult"] = {1, 1, 1};
  model["unet"]["featureChannels"] = 80;
  model["features"] = {{"backbone", "efficientnet-lite0"}, {"strides", {2, 4, 8}}, {"weight", 1}};
  return model;
}

inline std::string packagedBackbone() {
#if defined(DDAD_SOURCE_DIR)
  return DDAD_SOURCE_DIR "/weights/efficientnet-lite0-backbone.safetensors";
#else
  return "weights/efficientnet-lite0-backbone.safetensors";
#endif
}

}  // namespace ddad::testing
