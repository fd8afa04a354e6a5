#pragma once
// Where the time of a network goes: each op of a compiled plan by itself, and whole scoring passes.
#include "base/cancel.h"
#include "device/device.h"
#include "nlohmann/json.hpp"
#include "profile/timing.h"

namespace ddad {

struct ProfileOptions {
  int64_t batch = 1;      // samples of a pass over the network
  bool training = false;  // times backward; otherwise forward, as scoring runs it
  Repetition repetition;
};

/// What the machine reaches at best (see CeilingProbe): {"flopsPerSecond":[…],"bytesPerSecond":[…]}. Throws ERR_MEMORY,
/// ERR_ABORTED.
nlohmann::json profileCeiling(const Device& device, const Repetition& repetition, const Cancel& cancel);

/// Times every op of the UNet in `config` ({"unet","input":{"size"}}), with fresh weights, in the order in which a pass
/// runs them; ops of the same kind and shape are one entry, whose times are means over them:
///   {"ops":[{"name","kernel","count","flops","bytes","seconds":[…]}]}
/// `flops` counts the operations of the op's definition and `bytes` what it must read and write at least, each for one
/// op; `seconds` has a value for each pass. Throws ERR_CONFIG, ERR_MEMORY, ERR_ABORTED.
nlohmann::json profileOps(const Device& device, const nlohmann::json& config, const ProfileOptions& options,
                          const Cancel& cancel);

/// Times scoring passes of `images` images at the size of the network's input, all noise scales of `config` in one,
/// without features: {"flops","seconds":[…]}, both of a pass. Throws ERR_CONFIG, ERR_MEMORY, ERR_ABORTED.
nlohmann::json profilePass(const Device& device, const nlohmann::json& config, int64_t images,
                           const Repetition& repetition, const Cancel& cancel);

}  // namespace ddad
