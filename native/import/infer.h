#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "nlohmann/json.hpp"

namespace ddad {

/// Shapes of the parameters of a network, by name.
using Shapes = std::unordered_map<std::string, std::vector<int64_t>>;

/// What parameters tell of the network that they are of.
struct InferredUNet {
  nlohmann::json unet;               // a UNetConfig as JSON, without a feature head
  std::vector<std::string> assumed;  // fields of it that no shape shows
};

/// Finds the UNet of guided-diffusion whose parameters have these names and shapes. Fields of `given` win over what is
/// found, and over what is assumed where no shape shows it: `imageSize` (8 at the coarsest level, as all public models
/// have it), `numHeadChannels` or `numHeads` (64 channels a head, else 32), `useNewAttentionOrder` (false). With
/// `dropLabels` the network is not told classes. Throws ERR_MODEL_FORMAT that names the parameter, what was expected
/// and what came.
InferredUNet inferUNet(const Shapes& shapes, const nlohmann::json& overrides, bool dropLabels);

}  // namespace ddad
