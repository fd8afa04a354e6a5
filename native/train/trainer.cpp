#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backbone/features.h"
#include "backbone/stored_features.h"
#include "device/parallel.h"
#include "file/json_fields.h"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "ops/parameters.h"
#include "ops/plan.h"
#include "tensor/philox.h"
#include "train/feature_cache.h"
#include "train/trainer_config.h"
#include "unet/initialize.h"
#include "unet/unet.h"

namespace ddad {
namespace {

constexpr int64_t kFeatureCacheBytes = int64_t{512} << 20;
constexpr int64_t kOptimizerChunk = 8192;  // parameters updated by one piece of work

bool isHead(const ParamSpec& p) { return p.name.rfind("feat_rec1.", 0) == 0; }

/// Whether a file has the feature head of the graph, in its shape.
bool hasHead(const Graph& graph, const SafetensorsFile& file) {
  return std::all_of(graph.params().begin(), graph.params().end(), [&](const ParamSpec& p) {
    const TensorEntry* entry = isHead(p) ? file.find(p.name) : nullptr;
    return !isHead(p) || (entry && entry->shape == p.shape);
  });
}

}  // namespace

class TrainerImpl {
 public:
  TrainerImpl(std::shared_ptr<Device> device, const nlohmann::json& json, const std::string& backbone)
      : device_(std::move(device)),
        config_(TrainerConfig::fromJson(json)),
        schedule_(makeSchedule(config_.schedule, config_.diffusionSteps, config_.respacing)),
        net_(buildUNet(config_.unet)),
        parameters_{AlignedBuffer(net_.graph.parameterFloats()), AlignedBuffer(net_.graph.parameterFloats())},
        ema_(net_.graph.parameterFloats()),
        m_(net_.graph.parameterFloats()),
        v_(net_.graph.parameterFloats()) {
    initializeUNet(net_, config_.seed, parameters_.values.data());
    std::memcpy(ema_.data(), parameters_.values.data(), static_cast<size_t>(ema_.bytes()));
    PlanOptions options;
    options.batch = config_.batch;
    options.height = options.width = config_.size;
    options.training = true;
    plan_ = std::make_unique<Plan>(*device_, net_.graph, options, parameters_);
    if (net_.features >= 0) openBackbone(backbone);
    const auto batch = static_cast<size_t>(config_.batch);
    timesteps_.resize(batch);
    coefficients_.resize(batch);
    noise_.resize(batch);
    losses_.resize(batch);
    squares_.resize(static_cast<size_t>((net_.graph.parameterFloats() + kOptimizerChunk - 1) / kOptimizerChunk));
  }

  StepResult step(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel) {
    sampleTimesteps(config_.seed, static_cast<uint32_t>(steps_), 0, config_.batch, schedule_.steps(),
                    {config_.focusShare, config_.focusBelow}, timesteps_.data());
    for (size_t i = 0; i < noise_.size(); ++i) {
      noise_[i] = NoiseSource();
      noise_[i].seed = config_.seed;
      noise_[i].stream = kStreamTrainingNoise;
      noise_[i].step = static_cast<uint32_t>(steps_);
      noise_[i].sample = static_cast<uint32_t>(i);
    }
    return run(pixels, labels, lr, cancel);
  }

  StepResult stepGiven(const float* pixels, const int32_t* labels, const int32_t* t, const float* noise, double lr,
                       const Cancel& cancel) {
    const int64_t elements = config_.size * config_.size * config_.unet.inChannels;
    for (size_t i = 0; i < noise_.size(); ++i) {
      timesteps_[i] = t[i];
      noise_[i] = NoiseSource();
      noise_[i].given = noise + static_cast<int64_t>(i) * elements;
    }
    return run(pixels, labels, lr, cancel);
  }

  void observe(const float* pixels, const Cancel& cancel) {
    if (!features_) return;
    if (steps_ > 0) throw Error("ERR_ARGUMENT", "observe: the features' statistics are fixed by the first step");
    if (!statistics_) {
      statistics_ = std::make_unique<ChannelStatistics>(features_->channels());
      std::fill(features_->mean.begin(), features_->mean.end(), 0.0f);
      std::fill(features_->std.begin(), features_->std.end(), 1.0f);
    }
    extract(pixels, cancel);
    statistics_->add(target_.data(), config_.batch * positions());
  }

  int64_t imageFloats() const {
    const int64_t side = config_.size * config_.features.scale;
    return side * side * config_.unet.inChannels;
  }
  int64_t batchFloats() const { return config_.batch * imageFloats(); }

  void writeCheckpoint(const std::string& path, const nlohmann::json& metadata) const {
    std::vector<TensorToWrite> tensors;
    appendParameters(net_.graph, "model.", parameters_.values.data(), tensors);
    appendParameters(net_.graph, "ema.", ema_.data(), tensors);
    appendParameters(net_.graph, "adam_m.", m_.data(), tensors);
    appendParameters(net_.graph, "adam_v.", v_.data(), tensors);
    std::map<std::string, std::string> texts = {{"format", "ddad-native"},
                                                {"formatVersion", "1"},
                                                {"kind", "checkpoint"},
                                                {"step", std::to_string(steps_)},
                                                {"config", metadata.dump()}};
    if (features_) appendFeatures(*features_, tensors, texts);
    writeSafetensors(path, texts, tensors);
  }

  nlohmann::json readCheckpoint(const std::string& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    const auto text = [&](const char* key) {
      const auto it = file.metadata().find(key);
      return it == file.metadata().end() ? std::string() : it->second;
    };
    const auto refuse = [&](const std::string& why) { throw Error("ERR_MODEL_FORMAT", path + ": " + why); };
    if (text("format") != "ddad-native" || text("formatVersion") != "1" || text("kind") != "checkpoint")
      refuse("expected a ddad-native checkpoint of format version 1, got " +
             (text("kind").empty() ? "another file" : "a " + text("kind")));
    const std::string step = text("step");
    if (step.empty() || step.size() > 15 || step.find_first_not_of("0123456789") != std::string::npos)
      refuse("expected a step number in the metadata, got \"" + step.substr(0, 20) + "\"");
    nlohmann::json config = parseJson(text("config"));
    if (!config.is_object()) refuse("expected a configuration in the metadata");
    // read everything before anything is replaced, and look at what is there before memory is taken
    for (const char* prefix : {"model.", "ema.", "adam_m.", "adam_v."}) checkParameters(net_.graph, file, prefix);
    const int64_t n = net_.graph.parameterFloats();
    AlignedBuffer values(n), ema(n), m(n), v(n);
    readParameters(net_.graph, file, "model.", values.data());
    readParameters(net_.graph, file, "ema.", ema.data());
    readParameters(net_.graph, file, "adam_m.", m.data());
    readParameters(net_.graph, file, "adam_v.", v.data());
    if (features_) {
      readFeatures(file, config_.features, *features_);
      extractor_->plan().prepare();
      if (cache_) cache_->clear();
    }
    // the plan points into the parameter block: copy, do not swap
    std::memcpy(parameters_.values.data(), values.data(), static_cast<size_t>(values.bytes()));
    ema_ = std::move(ema);
    m_ = std::move(m);
    v_ = std::move(v);
    steps_ = std::stoll(step);
    return config;
  }

  void setWeights(const float* block) {
    std::memcpy(parameters_.values.data(), block, static_cast<size_t>(ema_.bytes()));
    std::memcpy(ema_.data(), block, static_cast<size_t>(ema_.bytes()));
  }

  std::vector<std::string> initialize(const std::string& path, bool keepHead) {
    if (steps_ > 0) throw Error("ERR_ARGUMENT", "initialize: expected a trainer before its first step");
    const SafetensorsFile file = SafetensorsFile::open(path);
    std::vector<std::string> fresh;
    std::vector<const ParamSpec*> taken;
    keepHead = keepHead && hasHead(net_.graph, file);
    for (const ParamSpec& p : net_.graph.params()) {
      const bool mayBeFresh = isHead(p) ? !keepHead : p.name == "label_emb.weight" && !file.find(p.name);
      if (mayBeFresh) {
        fresh.push_back(p.name);
      } else {
        file.checkShape(p.name, p.shape);
        taken.push_back(&p);
      }
    }
    for (const ParamSpec* p : taken) file.readFloats(p->name, p->shape, parameters_.values.data() + p->offset);
    std::memcpy(ema_.data(), parameters_.values.data(), static_cast<size_t>(ema_.bytes()));
    return fresh;
  }

  const std::shared_ptr<Device> device_;
  const TrainerConfig config_;
  const Schedule schedule_;
  const UNet net_;
  ParameterBlock parameters_;
  AlignedBuffer ema_, m_, v_;
  std::unique_ptr<Plan> plan_;
  std::unique_ptr<FeatureSource> features_;  // null without a feature head
  std::unique_ptr<FeatureExtractor> extractor_;
  std::unique_ptr<FeatureCache> cache_;  // null where samples do not come again
  AlignedBuffer target_;                 // f(x_0) of the batch
  AlignedBuffer reduced_;                // what the UNet sees of the batch, where the backbone sees more
  int64_t steps_ = 0;

 private:
  void openBackbone(const std::string& path) {
    if (path.empty()) throw Error("ERR_CONFIG", "features: expected the weights of a backbone, got none");
    const std::unique_ptr<TensorSource> file = openTensorSource(path);
    // a checkpoint carries its backbone, folded
    const std::string prefix = file->has("backbone._conv_stem.weight") ? "backbone." : "";
    features_ = std::make_unique<FeatureSource>(openFeatures(*file, prefix, config_.features));
    if (features_->channels() != config_.unet.featureChannels)
      throw Error("ERR_CONFIG", "unet.featureChannels: the backbone's taps have " +
                                    std::to_string(features_->channels()) + " channels, got " +
                                    std::to_string(config_.unet.featureChannels));
    const int64_t side = config_.size * config_.features.scale;
    // with a cache image by image, so that only those that are new are computed
    extractor_ =
        std::make_unique<FeatureExtractor>(*device_, *features_, config_.samplesRepeat ? 1 : config_.batch, side, side);
    if (config_.features.scale > 1)
      reduced_ = AlignedBuffer(config_.batch * config_.size * config_.size * config_.unet.inChannels);
    target_ = AlignedBuffer(config_.batch * featureFloats());
    if (config_.samplesRepeat) cache_ = std::make_unique<FeatureCache>(featureFloats(), kFeatureCacheBytes);
    featureLosses_.resize(static_cast<size_t>(config_.batch));
  }

  /// Cells of an image's features, and floats.
  int64_t positions() const { return (config_.size / 4) * (config_.size / 4); }
  int64_t featureFloats() const { return positions() * features_->channels(); }

  /// target_ from the pixels of the batch.
  void extract(const float* pixels, const Cancel& cancel) {
    if (!cache_) return extractor_->run(pixels, config_.unet.inChannels, target_.data(), cancel);
    for (int64_t i = 0; i < config_.batch; ++i) {
      const float* image = pixels + i * imageFloats();
      float* target = target_.data() + i * featureFloats();
      // statistics are gathered of features that are not normalised yet
      const FeatureCache::Key key = statistics_ ? FeatureCache::Key{} : FeatureCache::keyOf(image, imageFloats());
      const float* known = statistics_ ? nullptr : cache_->find(key);
      if (known) {
        std::memcpy(target, known, static_cast<size_t>(featureFloats()) * sizeof(float));
        continue;
      }
      extractor_->run(image, config_.unet.inChannels, target, cancel);
      if (!statistics_) cache_->insert(key, target);
    }
  }

  /// One step with timesteps_ and noise_ filled in. Until the optimiser starts nothing that lasts is touched.
  StepResult run(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel) {
    const ImageBatch images = {config_.batch, config_.size * config_.size, static_cast<int>(config_.unet.inChannels)};
    const float* seen = pixels;
    if (config_.features.scale > 1) {
      reduceImages(pixels, config_.batch, config_.size, config_.size, config_.unet.inChannels, config_.features.scale,
                   reduced_.data());
      seen = reduced_.data();
    }
    const ImageView x0 = {seen, images.elements()};
    const int threads = device_->threads();
    for (size_t i = 0; i < timesteps_.size(); ++i) {
      coefficients_[i] = stepCoefficients(schedule_, timesteps_[i]);
      plan_->value(net_.t)[i] = static_cast<float>(schedule_.timestepMap[static_cast<size_t>(timesteps_[i])]);
      if (net_.y >= 0) plan_->value(net_.y)[i] = static_cast<float>(checkedLabel(labels, i));
    }
    if (statistics_) {
      statistics_->finish(features_->mean, features_->std);
      statistics_.reset();
    }
    noising(images, x0, coefficients_.data(), noise_.data(), plan_->value(net_.x), threads);
    if (features_) extract(pixels, cancel);
    plan_->prepare();
    plan_->forward(cancel);
    const double vbWeight = config_.rescaledLoss ? schedule_.steps() / 1000.0 : 1.0;
    diffusionLoss(images, x0, plan_->value(net_.out), coefficients_.data(), noise_.data(), vbWeight, config_.batch,
                  losses_.data(), plan_->gradient(net_.out), threads);
    StepResult result;
    for (const SampleLoss& loss : losses_) {
      result.loss += loss.loss / static_cast<double>(config_.batch);
      result.mse += loss.mse / static_cast<double>(config_.batch);
      result.vb += loss.vb / static_cast<double>(config_.batch);
    }
    if (features_) {
      const int64_t elements = featureFloats();
      featureLoss(*device_, plan_->value(net_.features), target_.data(), config_.batch, elements,
                  config_.features.weight, featureLosses_.data(), plan_->gradient(net_.features));
      for (double loss : featureLosses_) result.feature += loss / static_cast<double>(config_.batch);
      result.loss += config_.features.weight * result.feature;
    }
    if (!std::isfinite(result.loss)) fail("loss", result.loss);
    plan_->backward(cancel);
    result.gradNorm = gradientNorm();
    if (!std::isfinite(result.gradNorm)) fail("gradient norm", result.gradNorm);
    cancel.check();
    update(lr);
    ++steps_;
    return result;
  }

  [[noreturn]] void fail(const char* what, double value) const {
    throw Error("ERR_NUMERIC", std::string("step ") + std::to_string(steps_) + ": the " + what + " is " +
                                   std::to_string(value) + "; a lower learning rate may help");
  }

  int32_t checkedLabel(const int32_t* labels, size_t i) const {
    if (!labels) throw Error("ERR_ARGUMENT", "labels: a model with classes needs a label for each sample");
    if (labels[i] < 0 || labels[i] >= config_.unet.numClasses)
      throw Error("ERR_ARGUMENT", "labels: expected 0 to " + std::to_string(config_.unet.numClasses - 1) + ", got " +
                                      std::to_string(labels[i]));
    return labels[i];
  }

  double gradientNorm() {
    const int64_t n = net_.graph.parameterFloats();
    const auto sum = DDAD_DISPATCH(sumOfSquares);
    parallelFor(device_->threads(), static_cast<int64_t>(squares_.size()), [&](int64_t i) {
      const int64_t first = i * kOptimizerChunk;
      squares_[static_cast<size_t>(i)] =
          sum(parameters_.gradients.data() + first, std::min(kOptimizerChunk, n - first));
    });
    double total = 0;
    for (double s : squares_) total += s;
    return std::sqrt(total);
  }

  void update(double lr) {
    const int64_t n = net_.graph.parameterFloats();
    const AdamWStep constants = adamWStep(config_.optimizer, lr, steps_ + 1);
    const auto kernel = DDAD_DISPATCH(adamwEma);
    parallelFor(device_->threads(), static_cast<int64_t>(squares_.size()), [&](int64_t i) {
      const int64_t first = i * kOptimizerChunk;
      kernel(parameters_.values.data() + first, parameters_.gradients.data() + first, m_.data() + first,
             v_.data() + first, ema_.data() + first, std::min(kOptimizerChunk, n - first), constants);
    });
  }

  std::vector<int32_t> timesteps_;
  std::vector<StepCoefficients> coefficients_;
  std::vector<NoiseSource> noise_;
  std::vector<SampleLoss> losses_;
  std::vector<double> squares_, featureLosses_;
  std::unique_ptr<ChannelStatistics> statistics_;  // between observe and the first step
};

Trainer::Trainer(std::shared_ptr<Device> device, const nlohmann::json& config, const std::string& backbone)
    : impl_(std::make_unique<TrainerImpl>(std::move(device), config, backbone)) {}
Trainer::~Trainer() = default;

void Trainer::observe(const float* pixels, const Cancel& cancel) { impl_->observe(pixels, cancel); }
StepResult Trainer::step(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel) {
  return impl_->step(pixels, labels, lr, cancel);
}
StepResult Trainer::stepGiven(const float* pixels, const int32_t* labels, const int32_t* t, const float* noise,
                              double lr, const Cancel& cancel) {
  return impl_->stepGiven(pixels, labels, t, noise, lr, cancel);
}
int64_t Trainer::stepsDone() const { return impl_->steps_; }
int64_t Trainer::batchSize() const { return impl_->config_.batch; }
int64_t Trainer::batchFloats() const { return impl_->batchFloats(); }
const Graph& Trainer::graph() const { return impl_->net_.graph; }
const float* Trainer::weights() const { return impl_->parameters_.values.data(); }
const float* Trainer::averagedWeights() const { return impl_->ema_.data(); }
void Trainer::setWeights(const float* block) { impl_->setWeights(block); }
std::vector<std::string> Trainer::initialize(const std::string& path, bool keepHead) {
  return impl_->initialize(path, keepHead);
}
void Trainer::saveCheckpoint(const std::string& path, const nlohmann::json& metadata) const {
  impl_->writeCheckpoint(path, metadata);
}
nlohmann::json Trainer::loadCheckpoint(const std::string& path) { return impl_->readCheckpoint(path); }
std::unique_ptr<Scorer> Trainer::toScorer(const nlohmann::json& config) const {
  return std::make_unique<Scorer>(impl_->device_, config, impl_->ema_.data(), impl_->features_.get());
}
nlohmann::json Trainer::memory() const {
  const int64_t backbone = impl_->features_ ? impl_->features_->block.values.bytes() : 0;
  const int64_t features = impl_->features_ ? impl_->target_.bytes() + impl_->extractor_->plan().activationBytes() : 0;
  return {{"parameters", impl_->parameters_.values.bytes() + impl_->parameters_.gradients.bytes() + backbone},
          {"optimizer", impl_->ema_.bytes() + impl_->m_.bytes() + impl_->v_.bytes()},
          {"activations", impl_->plan_->activationBytes() + features},
          {"packedWeights", impl_->plan_->packedBytes()},
          {"featureCache", impl_->cache_ ? impl_->cache_->bytes() : 0}};
}

}  // namespace ddad
