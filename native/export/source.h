#pragma once
// The file that is exported, a model or a training checkpoint: its configuration at once, its tensors as they are
// wanted.
#include <string>

#include "export/onnx_ops.h"
#include "file/safetensors.h"
#include "nlohmann/json.hpp"
#include "unet/unet.h"

namespace ddad {

class ExportSource {
 public:
  /// Checks that the file has every parameter of its network, which is built with its feature head or without. Throws
  /// ERR_FILE_READ, ERR_MODEL_FORMAT.
  ExportSource(const std::string& path, bool head);

  const SafetensorsFile& file() const { return file_; }
  const nlohmann::json& config() const { return config_; }
  const UNet& net() const { return net_; }
  bool isCheckpoint() const { return !prefix_.empty(); }
  /// Name of a parameter's tensor in the file: of a checkpoint the averaged weights, which score.
  std::string tensorName(const ParamSpec& param) const { return prefix_ + param.name; }
  /// Reads parameters of the network as float32; those pages of the file are then let go of.
  ParameterReader reader() const;
  /// Lets go of the memory behind a tensor that has been read. It can be read again.
  static void releasePages(const TensorEntry& tensor);

 private:
  SafetensorsFile file_;
  std::string prefix_;
  nlohmann::json config_;
  UNet net_;
};

}  // namespace ddad
