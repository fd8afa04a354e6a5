#pragma once
// Scores images with a trained model: the pixel-level score (9) at several noise scales, normalised and averaged (11).
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "nlohmann/json.hpp"
#include "score/score_config.h"
#include "tensor/cancel.h"

namespace ddad {

enum class PixelType { kU8, kU16, kF32 };  // 0..255, 0..65535, 0..1

/// One image, row-major, channels interleaved, with as many channels as the model has.
struct ScoreRequest {
  const void* data = nullptr;
  PixelType type = PixelType::kU8;
  int width = 0, height = 0, channels = 0;
  int outWidth = 0, outHeight = 0;  // size of the map; 0: the image's own
  int label = -1;                   // class of a conditional model
  bool residuals = false;           // whether the result carries those of the features
  bool features = false;            // whether it carries what evidence is fitted on
  bool featuresOnly = false;        // that alone: no network, no maps, no score
  bool shareMaps = false;           // leaves out what is the same as the map (Scorer::mapSource) and has no place
  /// Where the maps of the result go, each of its size; where null, into the result itself.
  float *map = nullptr, *pixelMap = nullptr, *featureMap = nullptr;
};

struct ScoreResult {
  int width = 0, height = 0;
  std::vector<float> map;         // what the image is judged by: the ensemble (11) or another kind, row-major
  std::vector<float> pixelMap;    // shat (or the reconstruction error) averaged over the scales, smoothed like the map
  std::vector<float> featureMap;  // shat^f likewise; empty where the model has no features
  double score = 0;               // mean of the largest pixels of the map at the network's resolution
  /// Of one raw score of this image, a noise scale each: what calibration pools over images. std with n - 1.
  struct Statistics {
    std::vector<double> mean, std;
    int64_t elements = 0;  // values that these are over
  };
  Statistics pixel;    // the channel-mean KL in nats
  Statistics rgb;      // (x_0 - xhat0)^2, where nothing is normalised
  Statistics feature;  // the feature error on the stride-4 grid
  Statistics memory;   // the distance to the nearest known residual there, one for all scales; empty without a memory
  std::vector<Statistics> banks;  // of the distances to each bank of the evidence, as in `memory`
  /// What the score is made of, EvidenceConfig::names: the ensemble's score, then logarithms of distances; empty
  /// without evidence, or before it is fitted.
  std::vector<double> evidence;
  /// Where asked for: the residuals of the image's cells as setMemory takes them, [cells, channels].
  std::vector<float> residuals;
  /// Where features are asked for and the configuration has evidence: rows, of a large image some of them, and
  /// statistics as setEvidence takes them.
  std::vector<float> evidenceRows, evidenceStatistics;
  std::vector<float> evidencePlaces;  // as observePlaces takes them
  int64_t evidenceChannels = 0;
};

/// One image of a batch: what is asked, and what comes of it.
struct ScoreJob {
  ScoreRequest request;
  const Cancel* cancel = nullptr;
  ScoreResult result;
  std::exception_ptr error;  // set where there is no result
};

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
  /// Adds the features of a good image, ScoreResult::evidencePlaces, to what setEvidence fits the Gaussians of places on;
  /// `first` begins anew. Throws ERR_CONFIG, ERR_ARGUMENT, ERR_MEMORY.
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
