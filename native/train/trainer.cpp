#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backbone/features.h"
#include "backbone/stored_features.h"
#include "base/philox.h"
#include "device/device_buffer.h"
#include "file/checkpoint/checkpoint.h"
#include "file/digest.h"
#include "file/json_fields.h"
#include "graph/parameters.h"
#include "graph/plan.h"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "score/model_file.h"
#include "train/feature_cache.h"
#include "train/memory_estimate.h"
#include "train/trainer_config.h"
#include "unet/initialize.h"
#include "unet/unet.h"

namespace ddad {
namespace {

constexpr int64_t kFeatureCacheBytes = int64_t{512} << 20;

bool isHead(const ParamSpec& p) { return p.name.rfind("feat_rec1.", 0) == 0; }

/// Whether a file has the feature head of the graph, in its shape.
bool hasHead(const Graph& graph, const SafetensorsFile& file) {
  return std::all_of(graph.params().begin(), graph.params().end(), [&](const ParamSpec& p) {
    const TensorEntry* entry = isHead(p) ? file.find(p.name) : nullptr;
    return !isHead(p) || (entry && entry->shape == p.shape);
  });
}

/// The features that a network with a head for them is trained on; null for another.
std::unique_ptr<FeatureSource> openSource(const TrainerConfig& config, const UNet& net, const std::string& path) {
  if (net.features < 0) return nullptr;
  if (path.empty()) throw Error("ERR_CONFIG", "features: expected the weights of a backbone, got none");
  const std::unique_ptr<TensorSource> file = openTensorSource(path);
  // a checkpoint carries its backbone, folded
  const std::string prefix = file->has("backbone._conv_stem.weight") ? "backbone." : "";
  auto features = std::make_unique<FeatureSource>(openFeatures(*file, prefix, config.features));
  if (features->channels() != config.unet.featureChannels)
    throw Error("ERR_CONFIG", "unet.featureChannels: the backbone's taps have " + std::to_string(features->channels()) +
                                  " channels, got " + std::to_string(config.unet.featureChannels));
  return features;
}

struct MemoryCheck {
  MemoryCheck(const Device& device, const TrainerConfig& config, const UNet& net, const FeatureSource* features) {
    requireTrainingMemory(device, config, net, features);
  }
};

/// A block of the device on the host: itself, or a copy.
class HostBlock {
 public:
  const float* of(const DeviceParameters& parameters, const DeviceBuffer& block) {
    if (parameters.device().sharesHostMemory()) return block.data();
    if (copy_.size() == 0) copy_ = AlignedBuffer(block.size());
    parameters.toHost(block.data(), copy_.data());
    return copy_.data();
  }

 private:
  AlignedBuffer copy_;
};

}  // namespace

class TrainerImpl {
 public:
  TrainerImpl(std::shared_ptr<Device> device, const nlohmann::json& json, const std::string& backbone)
      : device_(std::move(device)),
        config_(TrainerConfig::fromJson(json)),
        schedule_(makeSchedule(config_.schedule, config_.diffusionSteps, config_.respacing)),
        net_(buildUNet(config_.unet)),
        features_(openSource(config_, net_, backbone)),
        fits_(*device_, config_, net_, features_.get()),
        parameters_(AlignedBuffer(net_.graph.parameterFloats()),
                    AlignedBuffer(device_->sharesHostMemory() ? net_.graph.parameterFloats() : 0)),
        ema_(*device_, net_.graph.parameterFloats()),
        m_(*device_, net_.graph.parameterFloats()),
        v_(*device_, net_.graph.parameterFloats()),
        seen_(*device_, config_.batch * imageFloats()),
        t_(*device_, config_.batch),
        y_(*device_, net_.y >= 0 ? config_.batch : 0),
        losses_(*device_, config_.batch),
        squaredNorm_(*device_, 1) {
    initializeUNet(net_, config_.seed, parameters_.values.data());
    PlanOptions options;
    options.batch = config_.batch;
    options.height = options.width = config_.size;
    options.training = true;
    plan_ = std::make_unique<Plan>(*device_, net_.graph, options, parameters_);
    startAverage();
    if (features_) compileFeatures();
    const auto batch = static_cast<size_t>(config_.batch);
    timesteps_.resize(batch);
    coefficients_.resize(batch);
    noise_.resize(batch);
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
    Handover handover(*device_, config_.batch * elements);
    const float* given = handover.take(noise, config_.batch * elements);
    for (size_t i = 0; i < noise_.size(); ++i) {
      timesteps_[i] = t[i];
      noise_[i] = NoiseSource();
      noise_[i].given = given + static_cast<int64_t>(i) * elements;
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
    extract(pixels, seen_.take(pixels, batchFloats()), cancel);
    statistics_->add(Handback().take(*device_, target_.data(), target_.size()), config_.batch * positions());
  }

  int64_t imageFloats() const {
    const int64_t side = config_.size * config_.features.scale;
    return side * side * config_.unet.inChannels;
  }
  int64_t batchFloats() const { return config_.batch * imageFloats(); }

  void writeCheckpoint(const std::string& path, const nlohmann::json& metadata) {
    std::vector<TensorToWrite> tensors;
    HostBlock ema, m, v;
    appendParameters(net_.graph, "model.", weights(), tensors);
    appendParameters(net_.graph, "ema.", ema.of(plan_->parameters(), ema_), tensors);
    appendParameters(net_.graph, "adam_m.", m.of(plan_->parameters(), m_), tensors);
    appendParameters(net_.graph, "adam_v.", v.of(plan_->parameters(), v_), tensors);
    std::map<std::string, std::string> texts = {{"format", "ddad-native"},
                                                {"formatVersion", formatVersion(metadata)},
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
    const bool known = text("formatVersion") == "1" || text("formatVersion") == "2";
    if (text("format") != "ddad-native" || !known || text("kind") != "checkpoint")
      refuse("expected a ddad-native checkpoint of format version 1 or 2, got " +
             (text("kind").empty() ? "another file" : "a " + text("kind")));
    const std::string step = text("step");
    if (step.empty() || step.size() > 15 || step.find_first_not_of("0123456789") != std::string::npos)
      refuse("expected a step number in the metadata, got \"" + step.substr(0, 20) + "\"");
    DigestCheck digest(file);
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
    digest.finish();
    const CancelScope whole(nullptr);  // from here on the trainer changes
    if (features_) {
      readFeatures(file, config_.features, *features_);
      features_->block.upload();
      extractor_->plan().prepare();
      if (cache_) cache_->clear();
    }
    // the plan points into the parameter block: copy, do not swap
    std::memcpy(parameters_.values.data(), values.data(), static_cast<size_t>(values.bytes()));
    parameters_.upload();
    plan_->parameters().toDevice(ema.data(), ema_.data());
    plan_->parameters().toDevice(m.data(), m_.data());
    plan_->parameters().toDevice(v.data(), v_.data());
    steps_ = std::stoll(step);
    return config;
  }

  void setWeights(const float* block) {
    std::memcpy(parameters_.values.data(), block, static_cast<size_t>(ema_.bytes()));
    parameters_.upload();
    startAverage();
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
    DigestCheck(file).finish();  // before anything is replaced
    for (const ParamSpec* p : taken) file.readFloats(p->name, p->shape, parameters_.values.data() + p->offset);
    parameters_.upload();
    startAverage();
    return fresh;
  }

  /// The weights on the host, as they are now.
  const float* weights() {
    parameters_.downloadValues();
    return parameters_.values.data();
  }
  const float* averagedWeights() { return averaged_.of(plan_->parameters(), ema_); }

  const std::shared_ptr<Device> device_;
  const TrainerConfig config_;
  const Schedule schedule_;
  const UNet net_;
  const std::unique_ptr<FeatureSource> features_;  // null without a feature head
  const MemoryCheck fits_;                         // before anything large is allocated
  ParameterBlock parameters_;
  DeviceBuffer ema_, m_, v_;
  std::unique_ptr<Plan> plan_;
  std::unique_ptr<FeatureExtractor> extractor_;
  std::unique_ptr<FeatureCache> cache_;  // null where samples do not come again
  DeviceBuffer target_;                  // f(x_0) of the batch
  DeviceBuffer reduced_;                 // what the UNet sees of the batch, where the backbone sees more
  int64_t steps_ = 0;

 private:
  void startAverage() { plan_->parameters().toDevice(parameters_.values.data(), ema_.data()); }

  void compileFeatures() {
    const int64_t side = config_.size * config_.features.scale;
    // With a cache image by image, so that only those that are new are computed. The cache is the host's: to fetch from
    // it takes a device with a memory of its own longer than to compute again.
    const bool cached = config_.samplesRepeat && device_->sharesHostMemory();
    extractor_ = std::make_unique<FeatureExtractor>(*device_, *features_, cached ? 1 : config_.batch, side, side);
    if (config_.features.scale > 1)
      reduced_ = DeviceBuffer(*device_, config_.batch * config_.size * config_.size * config_.unet.inChannels);
    target_ = DeviceBuffer(*device_, config_.batch * featureFloats());
    if (cached) cache_ = std::make_unique<FeatureCache>(featureFloats(), kFeatureCacheBytes);
    featureLosses_ = Mirrored<double>(*device_, config_.batch);
  }

  /// Cells of an image's features, and floats.
  int64_t positions() const { return (config_.size / 4) * (config_.size / 4); }
  int64_t featureFloats() const { return positions() * features_->channels(); }

  /// target_ from the pixels of the batch, on the host and on the device.
  void extract(const float* pixels, const float* onDevice, const Cancel& cancel) {
    if (!cache_) return extractor_->run(onDevice, config_.unet.inChannels, target_.data(), cancel);
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
    for (size_t i = 0; i < timesteps_.size(); ++i) {
      coefficients_[i] = stepCoefficients(schedule_, timesteps_[i]);
      t_.host()[i] = static_cast<float>(schedule_.timestepMap[static_cast<size_t>(timesteps_[i])]);
      if (net_.y >= 0) y_.host()[i] = static_cast<float>(checkedLabel(labels, i));
    }
    if (statistics_) {
      statistics_->finish(features_->mean, features_->std);
      statistics_.reset();
    }
    const float *const given = seen_.take(pixels, batchFloats()), *seen = given;
    if (config_.features.scale > 1) {
      reduceImages(*device_, given, config_.batch, config_.size, config_.size, config_.unet.inChannels,
                   config_.features.scale, reduced_.data());
      seen = reduced_.data();
    }
    const ImageView x0 = {seen, images.elements()};
    device_->upload(plan_->value(net_.t), t_.host(), t_.bytes());
    if (net_.y >= 0) device_->upload(plan_->value(net_.y), y_.host(), y_.bytes());
    noising(*device_, images, x0, coefficients_.data(), noise_.data(), plan_->value(net_.x));
    if (features_) extract(pixels, given, cancel);
    plan_->prepare();
    plan_->forward(cancel);
    const double vbWeight = config_.rescaledLoss ? schedule_.steps() / 1000.0 : 1.0;
    diffusionLoss(*device_, images, x0, plan_->value(net_.out), coefficients_.data(), noise_.data(), vbWeight,
                  config_.batch, losses_.device(), plan_->gradient(net_.out));
    losses_.download();
    if (features_) {
      featureLoss(*device_, plan_->value(net_.features), target_.data(), config_.batch, featureFloats(),
                  config_.features.weight, featureLosses_.device(), plan_->gradient(net_.features));
      featureLosses_.download();
    }
    // a device that works by itself goes on while the host waits for its losses
    if (device_->sharesHostMemory()) checkLoss(lossOf());
    plan_->backward(cancel);
    squaredNorm(*device_, plan_->parameters().gradients(), net_.graph.parameterFloats(), squaredNorm_.device());
    squaredNorm_.download();
    device_->synchronize();
    StepResult result = lossOf();
    checkLoss(result);
    result.gradNorm = std::sqrt(squaredNorm_.host()[0]);
    if (!std::isfinite(result.gradNorm)) fail("gradient norm", result.gradNorm);
    cancel.check();
    const CancelScope whole(nullptr);  // from here on weights change
    DeviceParameters& parameters = plan_->parameters();
    updateWeights(*device_, parameters.values(), parameters.gradients(), m_.data(), v_.data(), ema_.data(),
                  parameters.half(), net_.graph.parameterFloats(), adamWStep(config_.optimizer, lr, steps_ + 1));
    ++steps_;
    return result;
  }

  /// Batch means of what the losses came to.
  StepResult lossOf() const {
    StepResult result;
    const auto share = 1.0 / static_cast<double>(config_.batch);
    for (int64_t i = 0; i < config_.batch; ++i) {
      const SampleLoss& loss = losses_.host()[i];
      result.loss += loss.loss * share;
      result.mse += loss.mse * share;
      result.vb += loss.vb * share;
      if (features_) result.feature += featureLosses_.host()[i] * share;
    }
    result.loss += config_.features.weight * result.feature;
    return result;
  }

  void checkLoss(const StepResult& result) const {
    if (!std::isfinite(result.loss)) fail("loss", result.loss);
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

  std::vector<int32_t> timesteps_;
  std::vector<StepCoefficients> coefficients_;
  std::vector<NoiseSource> noise_;
  Handover seen_;
  Mirrored<float> t_, y_;  // what the network is told, a sample each
  Mirrored<SampleLoss> losses_;
  Mirrored<double> featureLosses_, squaredNorm_;
  HostBlock averaged_;
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
const float* Trainer::weights() const { return impl_->weights(); }
const float* Trainer::averagedWeights() const { return impl_->averagedWeights(); }
void Trainer::setWeights(const float* block) { impl_->setWeights(block); }
std::vector<std::string> Trainer::initialize(const std::string& path, bool keepHead) {
  return impl_->initialize(path, keepHead);
}
void Trainer::saveCheckpoint(const std::string& path, const nlohmann::json& metadata) const {
  impl_->writeCheckpoint(path, metadata);
}
nlohmann::json Trainer::loadCheckpoint(const std::string& path) { return impl_->readCheckpoint(path); }
std::unique_ptr<Scorer> Trainer::toScorer(const nlohmann::json& config) const {
  return std::make_unique<Scorer>(impl_->device_, config, impl_->averagedWeights(), impl_->features_.get());
}
nlohmann::json Trainer::estimateMemory(const Device& device, const nlohmann::json& json, const std::string& backbone) {
  TrainerConfig config = TrainerConfig::fromJson(json);
  if (backbone.empty()) config.unet.featureChannels = 0;  // a head without a source of features cannot be trained
  const UNet net = buildUNet(config.unet);
  const std::unique_ptr<FeatureSource> features = openSource(config, net, backbone);
  const TrainingMemory memory = trainingMemory(device, config, net, features.get(), config.batch);
  const int64_t available = device.availableBytes();
  return {{"parameters", memory.parameters},
          {"optimizer", memory.optimizer},
          {"activations", memory.activations},
          {"packedWeights", memory.packedWeights},
          {"total", memory.total()},
          {"available", available},
          {"largestBatch", largestBatch(device, config, net, features.get(), available)}};
}
nlohmann::json Trainer::memory() const {
  const auto bytesOf = [](const ParameterBlock& block) {
    return block.deviceBytes() > 0 ? block.deviceBytes() : block.values.bytes() + block.gradients.bytes();
  };
  const int64_t backbone = impl_->features_ ? bytesOf(impl_->features_->block) : 0;
  const int64_t features = impl_->features_ ? impl_->target_.bytes() + impl_->extractor_->plan().activationBytes() : 0;
  return {
      {"parameters", bytesOf(impl_->parameters_) + backbone},
      {"optimizer", impl_->ema_.bytes() + impl_->m_.bytes() + impl_->v_.bytes()},
      {"activations", impl_->plan_->activationBytes() + features},
      {"packedWeights", impl_->plan_->packedBytes() + (impl_->features_ ? impl_->extractor_->plan().packedBytes() : 0)},
      {"featureCache", impl_->cache_ ? impl_->cache_->bytes() : 0}};
}

}  // namespace ddad
