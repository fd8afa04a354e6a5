#pragma once
// From a checkpoint of another program to a model file of this one.
#include <cstdint>
#include <memory>
#include <string>

#include "base/cancel.h"
#include "nlohmann/json.hpp"

namespace ddad {

class ImporterImpl;

/// Reads a checkpoint, says which network its parameters are of, and writes them as a model, piece by piece, so that no
/// more than a few megabytes of it are in memory at once.
class Importer {
 public:
  /// Maps a file that torch.save or safetensors wrote. Throws ERR_FILE_READ, ERR_MODEL_FORMAT.
  explicit Importer(const std::string& path);
  ~Importer();

  /// What the checkpoint holds, with these options (all may be absent):
  ///   "prefix"      what the names of the parameters begin with ("state_dict.module.", say); found where absent
  ///   "unet"        fields of a UNetConfig that win over what is inferred
  ///   "dropLabels"  the embedding of classes is left out
  /// Returns {"format","prefix","unet","assumed","dtypes","tensors","parameters","leftOut","head"}: the file's form;
  /// the network, and which of its fields no shape shows; of the parameters that are taken, element types, number of
  /// tensors and of values; names that are not taken; channels of a feature head that is there, or 0. Throws
  /// ERR_MODEL_FORMAT when the parameters are of no such network, ERR_CONFIG for options that contradict them.
  nlohmann::json inspect(const nlohmann::json& options);

  /// Begins to write a model with the configuration `config`, whose `unet` must be as `inspect` has found it; a feature
  /// head that the checkpoint does not have in this shape is fresh, the same every time. `backbone` names the weights
  /// that features come from, where the configuration has features. Throws ERR_ARGUMENT before inspect, ERR_CONFIG,
  /// ERR_MODEL_FORMAT, ERR_FILE_READ, ERR_FILE_WRITE.
  void begin(const std::string& path, const nlohmann::json& config, const std::string& backbone);

  /// Writes a piece of some ten megabytes; returns the share that is done, 1 when the file is complete and in its
  /// place. A destroyed Importer leaves nothing of a file that is not. Throws ERR_ARGUMENT before begin,
  /// ERR_MODEL_FORMAT for values that are not finite, ERR_FILE_WRITE, ERR_ABORTED.
  double write(const Cancel& cancel);

 private:
  std::unique_ptr<ImporterImpl> impl_;
};

}  // namespace ddad
