#include "train/trainer.h"

#include "train/trainer_impl.h"

namespace ddad {

Trainer::Trainer(std::shared_ptr<Device> device, const nlohmann::json& config, const std::string& backbone)
    : impl_(std::make_unique<TrainerImpl>(std::move(device), config, backbone)) {}
Trainer::~Trainer() = default;

void Trainer::observe(const float* pixels, const Cancel& cancel) { impl_->observe(pixels, cancel); }
StepResult Trainer::step(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel) {
  return impl_->step(pixels, labels, lr, cancel);
}
StepResult Trainer::stepWithNoise(const float* pixels, const int32_t* labels, const int32_t* t, const float* noise,
                                  double lr, const Cancel& cancel) {
  return impl_->stepWithNoise(pixels, labels, t, noise, lr, cancel);
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
  const std::unique_ptr<FeatureSource> features = openTrainingFeatures(config, net, backbone);
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
