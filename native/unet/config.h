#pragma once
#include <cstdint>
#include <vector>

#include "nlohmann/json_fwd.hpp"

namespace ddad {

/// The UNet of guided-diffusion, in that code's words.
struct UNetConfig {
  int64_t imageSize = 0;  // nominal size that attentionResolutions refer to
  int64_t inChannels = 3;
  int64_t modelChannels = 32;
  int64_t outChannels = 6;  // 2 * inChannels: eps and the variance's interpolation v
  int64_t numResBlocks = 1;
  std::vector<int64_t> attentionResolutions;  // feature-map sizes with attention, at imageSize
  std::vector<int64_t> channelMult;
  int64_t numHeads = 1;
  int64_t numHeadChannels = -1;  // wins over numHeads where positive
  bool useScaleShiftNorm = false;
  bool resblockUpdown = false;
  bool useNewAttentionOrder = false;
  int64_t numClasses = 0;       // 0: not conditional
  int64_t featureChannels = 0;  // 0: no feature head

  /// Reads and checks a configuration; throws ERR_CONFIG naming the field, what was expected and what came.
  static UNetConfig fromJson(const nlohmann::json& json);
};

}  // namespace ddad
