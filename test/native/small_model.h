#pragma once
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

}  // namespace ddad::testing
