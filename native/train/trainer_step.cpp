// A training step: noising (1), the losses (4)-(7) and (10), the optimiser.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/philox.h"
#include "train/optimizer.h"
#include "train/trainer_impl.h"

namespace ddad {

StepResult TrainerImpl::step(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel) {
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

StepResult TrainerImpl::stepWithNoise(const float* pixels, const int32_t* labels, const int32_t* t, const float* noise,
                                      double lr, const Cancel& cancel) {
  const int64_t elements = config_.size * config_.size * config_.unet.inChannels;
  UploadBuffer upload(*device_, config_.batch * elements);
  const float* values = upload.upload(noise, config_.batch * elements);
  for (size_t i = 0; i < noise_.size(); ++i) {
    timesteps_[i] = t[i];
    noise_[i] = NoiseSource();
    noise_[i].values = values + static_cast<int64_t>(i) * elements;
  }
  return run(pixels, labels, lr, cancel);
}

void TrainerImpl::observe(const float* pixels, const Cancel& cancel) {
  if (!features_) return;
  if (steps_ > 0) throw Error("ERR_ARGUMENT", "observe: the features' statistics are fixed by the first step");
  if (!statistics_) {
    statistics_ = std::make_unique<ChannelStatistics>(features_->channels());
    std::fill(features_->mean.begin(), features_->mean.end(), 0.0f);
    std::fill(features_->std.begin(), features_->std.end(), 1.0f);
  }
  extract(pixels, seen_.upload(pixels, batchFloats()), cancel);
  statistics_->add(DownloadBuffer().download(*device_, target_.data(), target_.size()), config_.batch * positions());
}

void TrainerImpl::extract(const float* pixels, const float* onDevice, const Cancel& cancel) {
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

StepResult TrainerImpl::run(const float* pixels, const int32_t* labels, double lr, const Cancel& cancel) {
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
  const float* const fine = seen_.upload(pixels, batchFloats());
  const float* seen = fine;
  if (config_.features.scale > 1) {
    reduceImages(*device_, fine, config_.batch, config_.size, config_.size, config_.unet.inChannels,
                 config_.features.scale, reduced_.data());
    seen = reduced_.data();
  }
  const ImageView x0 = {seen, images.elements()};
  device_->upload(plan_->value(net_.t), t_.host(), t_.bytes());
  if (net_.y >= 0) device_->upload(plan_->value(net_.y), y_.host(), y_.bytes());
  noising(*device_, images, x0, coefficients_.data(), noise_.data(), plan_->value(net_.x));
  if (features_) extract(pixels, fine, cancel);
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

StepResult TrainerImpl::lossOf() const {
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

void TrainerImpl::fail(const char* what, double value) const {
  throw Error("ERR_NUMERIC", std::string("step ") + std::to_string(steps_) + ": the " + what + " is " +
                                 std::to_string(value) + "; a lower learning rate may help");
}

int32_t TrainerImpl::checkedLabel(const int32_t* labels, size_t i) const {
  if (!labels) throw Error("ERR_ARGUMENT", "labels: a model with classes needs a label for each sample");
  if (labels[i] < 0 || labels[i] >= config_.unet.numClasses)
    throw Error("ERR_ARGUMENT", "labels: expected 0 to " + std::to_string(config_.unet.numClasses - 1) + ", got " +
                                    std::to_string(labels[i]));
  return labels[i];
}

}  // namespace ddad
