#pragma once
// Training: forward noising (1), the losses (4)-(8), AdamW with an exponential moving average of the weights.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "device/device.h"
#include "graph/graph.h"
#include "nlohmann/json.hpp"
#include "score/scorer.h"
#include "train/step_result.h"

namespace ddad {

class TrainerImpl;

class Trainer {
 public:
  /// Fresh weights from training.seed. `backbone` names the pretrained weights that a model with features needs.
  /// Throws ERR_CONFIG, ERR_MEMORY, ERR_FILE_READ, ERR_MODEL_FORMAT.
  Trainer(std::shared_ptr<Device> device, const nlohmann::json& config, const std::string& backbone = "");
  ~Trainer();

  /// Gathers the mean and standard deviation of each feature channel from pixels shaped as in step; to be called on
  /// some batches before the first step. Without features nothing happens.
  void observe(const float* pixels, const Cancel& cancel);
  /// One step on pixels [batch, side, side, channels] in [-1, 1], side = input.size * features.scale; labels [batch] or
  /// null. Time steps and noise come from (training.seed, step). On ERR_ABORTED or ERR_NUMERIC (a loss that is not
  /// finite) nothing has changed.
  StepResult step(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel);
  /// The same with time steps [batch] and noise (the shape of the pixels) given: for golden files.
  StepResult stepWithNoise(const float* pixels, const int32_t* labels, const int32_t* t, const float* noise, double lr,
                           const Cancel& cancel);
  int64_t stepsDone() const;
  int64_t batchSize() const;
  /// Floats of one batch: batch * side * side * channels.
  int64_t batchFloats() const;
  const Graph& graph() const;
  /// Parameter blocks on the host, laid out as graph() says; valid until the next call of any method.
  const float* weights() const;
  const float* averagedWeights() const;
  /// Starts from these weights (and an average equal to them).
  void setWeights(const float* block);
  /// Starts from the parameters of a model file: by their names, each in the network's shape. A feature head that the
  /// file has not, or in another shape, stays fresh, as it does where `keepHead` is false; so does an embedding of
  /// classes that the file has not. Returns the names of what stayed fresh. Throws ERR_FILE_READ, ERR_MODEL_FORMAT;
  /// weights are then unspecified.
  std::vector<std::string> initialize(const std::string& path, bool keepHead);
  /// Weights, their moving average, Adam's moments and the step, with `metadata` (a configuration) as metadata.
  void saveCheckpoint(const std::string& path, const nlohmann::json& metadata) const;
  /// Goes on from a checkpoint; returns its configuration. On an error nothing has changed.
  nlohmann::json loadCheckpoint(const std::string& path);
  /// A scorer with the averaged weights.
  std::unique_ptr<Scorer> toScorer(const nlohmann::json& config) const;
  /// {"parameters","optimizer","activations","packedWeights","featureCache"} in bytes of the device's memory.
  nlohmann::json memory() const;

  /// The same of a trainer of this configuration, before there is one, with "total", "available" (bytes that the device
  /// can give now) and "largestBatch" (0 where not even one fits). The backbone is counted where its file is given.
  static nlohmann::json estimateMemory(const Device& device, const nlohmann::json& config,
                                       const std::string& backbone = "");

 private:
  std::unique_ptr<TrainerImpl> impl_;
};

}  // namespace ddad
