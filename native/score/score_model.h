#pragma once
// A trained model as scoring needs it. Whoever scores only reads it; it is changed while nobody does.
#include <memory>
#include <string>
#include <vector>

#include "backbone/features.h"
#include "backbone/gaussian.h"
#include "file/safetensors.h"
#include "graph/plan.h"
#include "nlohmann/json.hpp"
#include "score/evidence/feature_evidence.h"
#include "score/evidence/residual_memory.h"
#include "score/score_config.h"
#include "unet/unet.h"

namespace ddad {

struct ScoreRequest;

/// What the file that a model was read from says of itself; empty where it does not, or there was none.
struct ModelOrigin {
  std::string digest, signature, signatureKey;
};

class ScoreModel {
 public:
  /// An untrained model of this configuration. Throws ERR_CONFIG.
  explicit ScoreModel(nlohmann::json config);
  /// Reads a model file, and compares it with its digest; where another `content` digest than this is expected, nothing
  /// of it is taken. Throws ERR_FILE_READ, ERR_MODEL_FORMAT, ERR_SIGNATURE, ERR_ABORTED.
  static std::unique_ptr<ScoreModel> load(const std::string& path, const std::string& content = "");
  void save(const std::string& path, const nlohmann::json& config) const;

  const nlohmann::json& json() const { return json_; }
  const ModelOrigin& origin() const { return origin_; }
  /// Replaces the configuration; the network must stay the same (ERR_CONFIG otherwise).
  void setConfig(const nlohmann::json& config);
  void setFeatures(FeatureSource source);
  void setMemory(int label, ResidualMemory memory);
  void setEvidence(int label, FeatureEvidence evidence);
  /// Those of other labels over other channels or another grid are forgotten: a model has one choice of them.
  void setGaussian(int label, std::shared_ptr<const FeatureGaussian> gaussian);

  /// How images of `label` are scored: products of a unified model differ in their calibration alone.
  const ScoreConfig& config(int label = 0) const;
  const UNet& net() const { return net_; }
  /// Null where the model has none. Not const, nor are the parameters: plans take them so; scoring changes neither.
  FeatureSource* features() const { return features_.get(); }
  ParameterBlock& parameters() { return parameters_; }
  /// Residuals of good images of a label; null where there are none.
  const ResidualMemory* memory(int label) const;
  /// The evidence of a label; null where it has not been fitted.
  const FeatureEvidence* evidence(int label) const;
  /// The Gaussian of good features of a label; null where there is none.
  std::shared_ptr<const FeatureGaussian> gaussian(int label) const;
  /// Throws ERR_IMAGE where the image does not fit the network, ERR_ARGUMENT for a label that it does not know.
  void checkRequest(const ScoreRequest& request) const;
  void checkLabel(int label) const;
  /// Labels that images may have; 1 where the network is not told.
  int64_t labels() const;

  int64_t parameterBytes() const;
  int64_t memoryBytes() const;
  int64_t gaussianBytes() const;
  int64_t evidenceBytes() const;

 private:
  static std::unique_ptr<ScoreModel> read(const SafetensorsFile& file);
  void readMemories(const SafetensorsFile& file);
  void readGaussians(const SafetensorsFile& file);
  void readEvidence(const SafetensorsFile& file);

  nlohmann::json json_;
  ModelOrigin origin_;
  std::vector<ScoreConfig> configs_;  // a label each, or one for all
  const UNet net_;
  ParameterBlock parameters_;
  std::unique_ptr<FeatureSource> features_;
  std::vector<ResidualMemory> memories_;                           // a label each
  std::vector<FeatureEvidence> evidence_;                          // likewise, without banks where there is none
  std::vector<std::shared_ptr<const FeatureGaussian>> gaussians_;  // likewise
};

}  // namespace ddad
