#include "score/scorer.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>

#include "device/parallel.h"
#include "score/gaussian_fitter.h"
#include "score/reconstruction.h"
#include "score/score_lane.h"

namespace ddad {

class ScorerImpl {
 public:
  ScorerImpl(std::shared_ptr<Device> device, std::unique_ptr<ScoreModel> model)
      : device_(std::move(device)), model_(std::move(model)), whole_(device_, *model_) {}

  void setConfig(const nlohmann::json& json) {
    model_->setConfig(json);
    whole_.clear();  // passes refer to the old configuration
    lanes_.clear();
  }

  void scoreBatch(ScoreJob* jobs, size_t count);

  const std::shared_ptr<Device> device_;
  const std::unique_ptr<ScoreModel> model_;
  std::optional<GaussianFit> places_;  // of the label whose evidence is fitted next
  ScoreLane whole_;                    // all threads on one image
  std::deque<ScoreLane> lanes_;        // one thread each, made when first needed

 private:
  void scoreSideBySide(const std::vector<ScoreJob*>& jobs);
};

namespace {

/// An error concerns its own image alone.
void scoreJob(ScoreLane& lane, ScoreJob& job) {
  const CancelScope scope(job.cancel);
  try {
    job.cancel->check();
    job.result = lane.score(job.request, *job.cancel);
  } catch (...) {
    job.error = std::current_exception();
  }
}

}  // namespace

void ScorerImpl::scoreBatch(ScoreJob* jobs, size_t count) {
  // An image on each thread needs no barriers and waits for nobody, but only a full set keeps all threads busy. Images
  // of many tiles differ too much in time.
  const auto lanes = static_cast<size_t>(device_->concurrentImages());
  std::vector<ScoreJob*> sideBySide;
  for (size_t i = 0; i < count; ++i)
    if (whole_.single(jobs[i].request)) sideBySide.push_back(&jobs[i]);
  sideBySide.resize(lanes > 1 ? sideBySide.size() / lanes * lanes : 0);
  if (!sideBySide.empty()) scoreSideBySide(sideBySide);
  for (size_t i = 0; i < count; ++i)
    if (std::find(sideBySide.begin(), sideBySide.end(), &jobs[i]) == sideBySide.end()) scoreJob(whole_, jobs[i]);
}

void ScorerImpl::scoreSideBySide(const std::vector<ScoreJob*>& jobs) {
  const int threads = device_->concurrentImages();
  std::vector<ScoreJob*> ready;
  for (ScoreJob* job : jobs) {
    // Compiling may measure kernels, which wants quiet, and opens oneDNN's primitives.
    try {
      for (int i = 0; i < threads; ++i) {
        if (lanes_.size() <= static_cast<size_t>(i)) {
          lanes_.emplace_back(device_->share(1), *model_, i == 0 ? &whole_.memory() : &lanes_.front().memory());
        }
        lanes_[static_cast<size_t>(i)].prepare(job->request);
      }
      ready.push_back(job);
    } catch (...) {
      job->error = std::current_exception();
    }
  }
  [[maybe_unused]] const int team = teamSize(threads);
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
  for (size_t i = 0; i < ready.size(); ++i) scoreJob(lanes_[static_cast<size_t>(omp_get_thread_num())], *ready[i]);
}

std::unique_ptr<Scorer> Scorer::load(std::shared_ptr<Device> device, const std::string& path,
                                     const std::string& content) {
  return std::unique_ptr<Scorer>(
      new Scorer(std::make_unique<ScorerImpl>(std::move(device), ScoreModel::load(path, content))));
}

Scorer::Scorer(std::unique_ptr<ScorerImpl> impl) : impl_(std::move(impl)) {}
Scorer::Scorer(std::shared_ptr<Device> device, const nlohmann::json& config, const float* parameters,
               const FeatureSource* features) {
  auto model = std::make_unique<ScoreModel>(config);
  if ((features != nullptr) != static_cast<bool>(model->config().features))
    throw Error("ERR_CONFIG", "features: expected the features that the configuration names, and none without");
  if (features) model->setFeatures(copyFeatures(*features));
  AlignedBuffer& values = model->parameters().values;
  std::memcpy(values.data(), parameters, static_cast<size_t>(values.bytes()));
  impl_ = std::make_unique<ScorerImpl>(std::move(device), std::move(model));
}
Scorer::~Scorer() = default;

const ModelOrigin& Scorer::origin() const { return impl_->model_->origin(); }
int Scorer::threads() const { return impl_->device_->threads(); }
const nlohmann::json& Scorer::config() const { return impl_->model_->json(); }
MapSource Scorer::mapSource() const { return impl_->model_->config().source(); }
void Scorer::setConfig(const nlohmann::json& config) { impl_->setConfig(config); }
void Scorer::setMemory(int label, const std::vector<float>& residuals, int64_t count) {
  const FeatureSource* features = impl_->model_->features();
  if (!features) throw Error("ERR_CONFIG", "features: expected a model with features, which residuals are of");
  const int64_t channels = features->channels();
  if (count < 1 || count > static_cast<int64_t>(residuals.size()) ||
      static_cast<int64_t>(residuals.size()) != count * channels)
    throw Error("ERR_ARGUMENT", "residuals: expected " + std::to_string(count) + " of " + std::to_string(channels) +
                                    " channels, got " + std::to_string(residuals.size()) + " values");
  impl_->model_->setMemory(label, ResidualMemory(residuals.data(), count, channels));
}
void Scorer::observePlaces(const std::vector<float>& features, bool first) {
  const ScoreModel& model = *impl_->model_;
  const int64_t stride = model.config().evidence.placeStride;
  if (stride == 0) throw Error("ERR_CONFIG", "score.evidence.placeStride: expected the stride of a tap, got none");
  const int64_t channels = EvidenceLayout(*model.features()).range({stride}).second;
  const auto count = static_cast<int64_t>(features.size());
  if (count == 0 || count % channels != 0)
    throw Error("ERR_ARGUMENT", "places: expected " + std::to_string(channels) + " features for each, got " +
                                    std::to_string(count) + " values");
  if (!std::all_of(features.begin(), features.end(), [](float v) { return std::isfinite(v); }))
    throw Error("ERR_NUMERIC", "places: a feature of a good image is not finite");
  if (first || !impl_->places_) impl_->places_.emplace(placeShape(count / channels, channels));
  impl_->places_->add(*impl_->device_, features.data(), count / channels);
}
void Scorer::setEvidence(int label, const std::vector<float>& rows, const std::vector<float>& images, int64_t keep,
                         const Cancel& cancel) {
  ScoreModel& model = *impl_->model_;
  const EvidenceConfig& config = model.config(label).evidence;
  if (!config) throw Error("ERR_CONFIG", "score.evidence: expected a configuration with evidence, got none");
  if (label < 0 || label >= model.labels())
    throw Error("ERR_ARGUMENT", "label: expected one of the model's classes, got " + std::to_string(label));
  FeatureEvidence evidence =
      fitEvidence(*impl_->device_, config, EvidenceLayout(*model.features()), rows, images, keep, cancel);
  const std::optional<GaussianFit> places = std::exchange(impl_->places_, std::nullopt);
  if (config.placeStride > 0) {
    if (!places) throw Error("ERR_NUMERIC", "Gaussians of places need at least 2 good images, got 0");
    evidence.places = places->finish(*impl_->device_, CovarianceFloor::kRelative);
  }
  model.setEvidence(label, std::move(evidence));
}
std::unique_ptr<GaussianFitter> Scorer::fitGaussian(const nlohmann::json& options) {
  return std::make_unique<GaussianFitter>(impl_->device_, *impl_->model_, options);
}
nlohmann::json Scorer::setGaussian(int label, const GaussianFitter& fitter) {
  impl_->model_->setGaussian(label, fitter.finish());
  return fitter.describe();
}
std::unique_ptr<Reconstruction> Scorer::reconstruct(const nlohmann::json& options,
                                                    const std::vector<ScoreRequest>& images) {
  return std::make_unique<Reconstruction>(impl_->device_, *impl_->model_,
                                          ReconstructOptions::fromJson(options, *impl_->model_), images,
                                          impl_->whole_.memory().unet);
}
std::unique_ptr<Reconstruction> Scorer::sample(const nlohmann::json& options, const SampleRequest& request) {
  return std::make_unique<Reconstruction>(impl_->device_, *impl_->model_,
                                          ReconstructOptions::fromJson(options, *impl_->model_), request,
                                          impl_->whole_.memory().unet);
}
ScoreResult Scorer::score(const ScoreRequest& request, const Cancel& cancel) {
  return impl_->whole_.score(request, cancel);
}
void Scorer::scoreBatch(ScoreJob* jobs, size_t count) { impl_->scoreBatch(jobs, count); }
void Scorer::save(const std::string& path, const nlohmann::json& config) const { impl_->model_->save(path, config); }

nlohmann::json Scorer::memory() const {
  std::vector<const DeviceBuffer*> packed;  // lanes mostly share theirs
  int64_t activations = 0, packedBytes = 0;
  const auto count = [&](const ScoreLane& lane) {
    activations += lane.activationBytes();
    for (const PlanMemory* memory : {&lane.memory().unet, &lane.memory().backbone}) {
      const DeviceBuffer* buffer = memory->packed.get();
      if (!buffer || std::find(packed.begin(), packed.end(), buffer) != packed.end()) continue;
      packed.push_back(buffer);
      packedBytes += buffer->bytes();
    }
  };
  count(impl_->whole_);
  for (const ScoreLane& lane : impl_->lanes_) count(lane);
  nlohmann::json bytes = {{"parameters", impl_->model_->parameterBytes()},
                          {"activations", activations},
                          {"packedWeights", packedBytes},
                          {"residualMemory", impl_->model_->memoryBytes()}};
  if (const int64_t evidence = impl_->model_->evidenceBytes()) bytes["evidence"] = evidence;
  if (const int64_t gaussians = impl_->model_->gaussianBytes()) bytes["gaussians"] = gaussians;
  return bytes;
}

}  // namespace ddad
