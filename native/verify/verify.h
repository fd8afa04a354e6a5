#pragma once
// Recomputes golden files: each output tensor from the inputs in the same file, through the functions that the engine
// itself uses. One file verify_<kind>.cpp and one row of the table in verify.cpp for each kind.
#include <string>

#include "base/cancel.h"
#include "nlohmann/json.hpp"

namespace ddad {

class Comparison;
class Device;
class SafetensorsFile;

/// Everything that the check of one file works with.
struct VerifyContext {
  Device& device;
  const SafetensorsFile& file;
  const nlohmann::json& spec;       // the file's `spec`
  const std::string& backbonePath;  // weights of the backbone; may be empty where a kind needs none
  const Cancel& cancel;
  Comparison& comparison;  // name the inputs to it, hand it every output
};

void verifyDiffusion(VerifyContext& context);
void verifyUnet(VerifyContext& context);
void verifyTrain(VerifyContext& context);
void verifyFeatures(VerifyContext& context);
void verifyScore(VerifyContext& context);
void verifySample(VerifyContext& context);
void verifyGradient(VerifyContext& context);

/// {"file","kind","ok":bool,"tensors":[{"name","error","tolerance","ok"}]}; `error` is null where it is not a number,
/// and a tensor that cannot be compared has a "reason".
/// Throws ERR_FILE_READ or ERR_MODEL_FORMAT where the file or its spec cannot be used, ERR_ABORTED when cancelled.
nlohmann::json verifyFile(Device& device, const std::string& goldenPath, const std::string& backbonePath,
                          const Cancel& cancel);

}  // namespace ddad
