#pragma once
// Models for other programs: ONNX graphs and weights in guided-diffusion's names.
#include <cstdint>
#include <string>

#include "base/cancel.h"
#include "nlohmann/json.hpp"

namespace ddad {

struct OnnxOptions {
  bool score = false;             // the whole scoring graph; otherwise the UNet
  bool head = true;               // with the feature head, where the model has one (UNet only: scoring needs it)
  bool external = false;          // weights in a file of their own, whatever their size
  nlohmann::json config;          // how to score, where it is not what the model says; null otherwise
  int label = 0;                  // score: of a class-conditional model
  int64_t width = 0, height = 0;  // score: of the image; 0 for the model's own size
  bool ownNoise = true;           // score: the engine's noise is a constant; otherwise it is an input
};

/// Writes an ONNX model. Returns what it is: {"graph","opset","irVersion","nodes","parameters","inputs","outputs" (each
/// {"name","type","shape","about"}),"leavesOut","files" (each {"path","bytes"})}. Throws ERR_FILE_READ,
/// ERR_MODEL_FORMAT, ERR_CONFIG, ERR_OPTION for what no graph can express, ERR_FILE_WRITE, ERR_ABORTED.
nlohmann::json exportOnnx(const std::string& path, const std::string& out, const OnnxOptions& options,
                          const Cancel& cancel);

/// Writes the parameters of the UNet alone, float32, in the names of guided-diffusion, with the model's configuration
/// in the metadata. Returns {"tensors","parameters","leavesOut","files"}. Throws like exportOnnx.
nlohmann::json exportWeights(const std::string& path, const std::string& out, bool head, const Cancel& cancel);

}  // namespace ddad
