#pragma once
// Scores images with a trained model: the pixel-level score (9) at several noise scales, normalised and averaged (11).
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "device/device.h"
#include "nlohmann/json.hpp"
#include "score/score_config.h"
#include "score/score_request.h"

namespace ddad {

struct FeatureSource;
struct ModelOrigin;
struct SampleRequest;
class GaussianFitter;
class Reconstruction;
class ScorerImpl;

class Scorer {
 public:
  /// Reads a model file. Throws ERR_FILE_READ, ERR_MODEL_FORMAT, ERR_CONFIG.
  static std::unique_ptr<Scorer> load(std::shared_ptr<Device> device, const std::string& path,
                                      const std::string& content = "");
  /// A scorer over a parameter block laid out as the model's graph says and, for a model with features, its features
  /// (both copied).
  Scorer(std::shared_ptr<Device> device, const nlohmann::json& config, const float* parameters,
         const FeatureSource* features);
  ~Scorer();

  const nlohmann::json& config() const;
  MapSource mapSource() const;
  /// Replaces the configuration; the network itself must be the same (ERR_CONFIG otherwise). Where it has "products"
  /// and "perProduct", images of each label are scored with the calibration of that product.
  void setConfig(const nlohmann::json& config);
  /// Residuals of good images [count, channels] for images of `label` (0 where the model has no classes), copied; the
  /// distance to the nearest of them then takes part in the feature-level score. Throws ERR_CONFIG, ERR_ARGUMENT.
  void setMemory(int label, const std::vector<float>& residuals, int64_t count);
  /// Adds the features of a good image, ScoreResult::evidencePlaces, to what setEvidence fits the Gaussians of places
  /// on; `first` begins anew. Throws ERR_CONFIG, ERR_ARGUMENT, ERR_MEMORY.
  void observePlaces(const std::vector<float>& features, bool first);
  /// Fits the evidence of images of `label` on features of good ones; see fitEvidence. Throws ERR_CONFIG, ERR_ARGUMENT,
  /// and ERR_NUMERIC where places are to have Gaussians and fewer than two images were observed.
  void setEvidence(int label, const std::vector<float>& rows, const std::vector<float>& images, int64_t keep,
                   const Cancel& cancel);
  /// Begins to fit a Gaussian of good features, see GaussianFitter; the scorer must outlive it.
  std::unique_ptr<GaussianFitter> fitGaussian(const nlohmann::json& options);
  /// Keeps what has been fitted for images of `label`; returns what the configuration is to say of it as "padim".
  nlohmann::json setGaussian(int label, const GaussianFitter& fitter);
  /// Begins a reconstruction of images of one size, or samples; see ReconstructOptions. The scorer must outlive it.
  std::unique_ptr<Reconstruction> reconstruct(const nlohmann::json& options, const std::vector<ScoreRequest>& images);
  std::unique_ptr<Reconstruction> sample(const nlohmann::json& options, const SampleRequest& request);
  /// Throws ERR_IMAGE where the image does not fit the model, ERR_NUMERIC where the network's output is not finite,
  /// ERR_ABORTED. The same model, image and seed give the same map, bit for bit.
  ScoreResult score(const ScoreRequest& request, const Cancel& cancel);
  /// Scores several images, with the results that each has alone, at the highest throughput: where there are enough of
  /// them, one on each thread. Throws nothing of what concerns a single image.
  void scoreBatch(ScoreJob* jobs, size_t count);
  /// What the model's file says of itself.
  const ModelOrigin& origin() const;
  /// Threads that it computes with.
  int threads() const;
  /// Writes the model with `config` as its metadata, atomically.
  void save(const std::string& path, const nlohmann::json& config) const;
  /// {"parameters","activations","packedWeights","residualMemory"} in bytes; "evidence" and "gaussians" where there
  /// are.
  nlohmann::json memory() const;

 private:
  explicit Scorer(std::unique_ptr<ScorerImpl> impl);
  std::unique_ptr<ScorerImpl> impl_;
};

}  // namespace ddad
