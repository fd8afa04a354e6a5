#pragma once
// Models for other programs: ONNX graphs and weights in guided-diffusion's names.
#include <string>

#include "base/cancel.h"
#include "export/onnx_options.h"
#include "nlohmann/json.hpp"

namespace ddad {

/// Writes an ONNX model. Returns what it is: {"graph","opset","irVersion","nodes","parameters","inputs","outputs" (each
/// {"name","type","shape","about"}),"leavesOut","files" (each {"path","bytes"})}. Throws ERR_FILE_READ,
/// ERR_MODEL_FORMAT, ERR_CONFIG, ERR_OPTION for what no graph can express, ERR_FILE_WRITE, ERR_ABORTED.
nlohmann::json exportOnnx(const std::string& path, const std::string& out, const OnnxOptions& options,
                          const Cancel& cancel);

/// Writes the parameters of the UNet alone, float32, in the names of guided-diffusion, with the model's configuration
/// in the metadata. Returns {"tensors","parameters","leavesOut","files"}. Throws like exportOnnx.
nlohmann::json exportWeights(const std::string& path, const std::string& out, bool head, const Cancel& cancel);

}  // namespace ddad
