#include "score/score_pass.h"

#include <algorithm>

#include "base/philox.h"
#include "score/evidence/residual_memory.h"

namespace ddad {
ScorePass::ScorePass(const Device& device, const UNet& net, const ScoreConfig& config, ParameterBlock& parameters,
                     FeatureSource* features, int64_t images, int64_t height, int64_t width, ScoreMemory* memory)
    : device_(device),
      net_(net),
      config_(&config),
      features_(features),
      scale_(features ? features->scale : 1),
      images_(images),
      height_(height),
      width_(width),
      channels_(config.unet.inChannels),
      scales_(static_cast<int64_t>(config.steps.size())),
      pixels_(device, images * height * width * scale_ * scale_ * channels_),
      t_(device, images * scales_),
      y_(device, net.y >= 0 ? images * scales_ : 0),
      reduced_(device, scale_ > 1 ? images * height * width * channels_ : 0),
      kl_(device, images * scales_ * height * width),
      coarse_(device, images * height * width),
      statistics_(device, images * scales_),
      maps_(scale_ > 1 ? images * height * width * scale_ * scale_ : 0),
      noise_(static_cast<size_t>(scales_)),
      labels_(static_cast<size_t>(images)),
      plan_(device, net.graph, {images * scales_, height, width}, parameters, memory ? &memory->unet : nullptr) {
  for (const int step : config.steps) coefficients_.push_back(stepCoefficients(config.schedule, step));
  use(config);
  const int threads = device.threads();
  if (scale_ > 1) enlarge_ = BilinearResize(threads, width, height, imageWidth(), imageHeight());
  if (!features) return;
  spread_ = BilinearResize(threads, gridWidth(), gridHeight(), imageWidth(), imageHeight());
  const int64_t positions = gridHeight() * gridWidth();
  extractor_ = std::make_unique<FeatureExtractor>(device, *features, images, imageHeight(), imageWidth(),
                                                  memory ? &memory->backbone : nullptr);
  target_ = DeviceBuffer(device, images * positions * features->channels());
  errors_ = Mirrored<float>(device, images * scales_ * positions);
  grid_ = AlignedBuffer(positions);
  featureMaps_ = AlignedBuffer(images * imageHeight() * imageWidth());
  residuals_ = AlignedBuffer(2 * positions * features->channels());
}

void ScorePass::use(const ScoreConfig& config) {
  config_ = &config;
  if (config.normalization == Normalization::kNone && rgb_.size() == 0) rgb_ = Mirrored<float>(device_, kl_.size());
  const bool calibrated = config.normalization == Normalization::kCalibration;
  const auto count = static_cast<double>(scales_);
  const auto term = [&](const std::vector<double>& mean, const std::vector<double>& std, size_t s) -> EnsembleTerm {
    if (!calibrated) return {static_cast<float>(1.0 / count), 0.0f};
    return {static_cast<float>(1.0 / (std[s] * count)), static_cast<float>(-mean[s] / (std[s] * count))};
  };
  terms_.resize(noise_.size());
  featureTerms_.resize(features_ ? noise_.size() : 0);
  for (size_t s = 0; s < noise_.size(); ++s) {
    const bool rgb = config.kind == ScoreKind::kRgb;
    terms_[s] = rgb ? term(config.rgbMean, config.rgbStd, s) : term(config.mean, config.std, s);
    if (features_) featureTerms_[s] = term(config.featureMean, config.featureStd, s);
  }
}

/// The noise of image i, a scale each.
const NoiseSource* ScorePass::sources(int64_t i, const uint32_t* samples, const float* noise) {
  const int64_t elements = height_ * width_ * channels_;
  for (size_t s = 0; s < noise_.size(); ++s) {
    noise_[s] = NoiseSource();
    if (noise) noise_[s].values = noise + (i * scales_ + static_cast<int64_t>(s)) * elements;
    noise_[s].seed = config_->seed;
    noise_[s].stream = kStreamScoreNoise;
    noise_[s].step = static_cast<uint32_t>(s);
    noise_[s].sample = samples[i];
  }
  return noise_.data();
}

void ScorePass::run(const uint32_t* samples, const Cancel& cancel, const float* noise) {
  const ImageBatch batch = {scales_, height_ * width_, static_cast<int>(channels_)};
  pixels_.upload();
  if (scale_ > 1) reduceImages(device_, pixels_.device(), images_, height_, width_, channels_, scale_, reduced_.data());
  for (int64_t i = 0; i < images_ * scales_; ++i) {
    const int step = config_->steps[static_cast<size_t>(i % scales_)];
    t_.host()[i] = static_cast<float>(config_->schedule.timestepMap[static_cast<size_t>(step)]);
    if (net_.y >= 0) y_.host()[i] = static_cast<float>(labels_[static_cast<size_t>(i / scales_)]);
  }
  device_.upload(plan_.value(net_.t), t_.host(), t_.bytes());
  if (net_.y >= 0) device_.upload(plan_.value(net_.y), y_.host(), y_.bytes());
  for (int64_t i = 0; i < images_; ++i)
    noising(device_, batch, {xStart(i), 0}, coefficients_.data(), sources(i, samples, noise),
            plan_.value(net_.x) + i * scales_ * batch.elements());
  plan_.forward(cancel);
  enqueuePixelScores(noise, samples);
  if (extractor_) enqueueFeatureErrors(cancel);
  device_.synchronize();
  for (int64_t i = 0; i < images_; ++i) {
    float* coarse = coarse_.host() + i * height_ * width_;
    if (config_->normalization == Normalization::kPerImage) normalisePerImage(i, coarse);
    if (scale_ > 1) enlarge_.run(coarse, maps_.data() + i * imageHeight() * imageWidth());
    if (extractor_) scoreFeatures(i);
  }
}

void ScorePass::runBackbone(const Cancel& cancel) {
  pixels_.upload();
  extractor_->run(pixels_.device(), channels_, target_.data(), cancel);
  device_.synchronize();
}

void ScorePass::enqueuePixelScores(const float* noise, const uint32_t* samples) {
  const ImageBatch batch = {scales_, height_ * width_, static_cast<int>(channels_)};
  const PixelMeasure measure = config_->kind == ScoreKind::kRgb ? PixelMeasure::kReconstruction : PixelMeasure::kKl;
  const bool perImage = config_->normalization == Normalization::kPerImage,
             rgb = config_->normalization == Normalization::kNone;
  for (int64_t i = 0; i < images_; ++i) {
    const int64_t first = i * scales_ * batch.pixels;
    pixelScore(device_, measure, batch, {xStart(i), 0}, output(i, 0), coefficients_.data(), sources(i, samples, noise),
               terms_.data(), kl_.device() + first, perImage ? statistics_.device() + i * scales_ : nullptr,
               coarse_.device() + i * batch.pixels);
    if (rgb)
      pixelScore(device_, PixelMeasure::kReconstruction, batch, {xStart(i), 0}, output(i, 0), coefficients_.data(),
                 sources(i, samples, noise), nullptr, rgb_.device() + first, nullptr, nullptr);
  }
  kl_.download();
  coarse_.download();
  if (perImage) statistics_.download();
  if (rgb) rgb_.download();
}

void ScorePass::enqueueFeatureErrors(const Cancel& cancel) {
  extractor_->run(pixels_.device(), channels_, target_.data(), cancel);
  const int64_t positions = gridHeight() * gridWidth(), channels = features_->channels();
  for (int64_t i = 0; i < images_ * scales_; ++i)
    featureError(device_, plan_.value(net_.features) + i * positions * channels,
                 target_.data() + i / scales_ * positions * channels, positions, channels,
                 errors_.device() + i * positions);
  errors_.download();
}

void ScorePass::scoreFeatures(int64_t i) {
  const int64_t positions = gridHeight() * gridWidth();
  std::fill_n(grid_.data(), positions, 0.0f);
  for (int64_t s = 0; s < scales_; ++s) {
    const EnsembleTerm term = featureTerms_[static_cast<size_t>(s)];
    const float* errors = featureErrors(i, s);
    for (int64_t p = 0; p < positions; ++p) grid_.data()[p] += errors[p] * term.scale + term.offset;
  }
  // resizing is linear, so the sum is resized, not each scale
  spread_.run(grid_.data(), featureMaps_.data() + i * imageHeight() * imageWidth());
}

const float* ScorePass::features(int64_t i) {
  const int64_t elements = gridHeight() * gridWidth() * features_->channels();
  return targetHost_.download(device_, target_.data() + i * elements, elements);
}

const float* ScorePass::predictedFeatures(int64_t i) {
  const int64_t elements = scales_ * gridHeight() * gridWidth() * features_->channels();
  return predictedHost_.download(device_, plan_.value(net_.features) + i * elements, elements);
}

const float* ScorePass::pooledResiduals(int64_t i) {
  const int64_t elements = gridHeight() * gridWidth() * features_->channels();
  float* out = residuals_.data() + elements;
  ddad::pooledResiduals(device_, predictedFeatures(i), features(i), scales_, gridHeight(), gridWidth(),
                        features_->channels(), residuals_.data(), out);
  return out;
}

/// The mean over scales and channels of (KL - mean) / std, both over all elements of the image at that scale.
void ScorePass::normalisePerImage(int64_t i, float* map) const {
  std::fill_n(map, height_ * width_, 0.0f);
  for (int64_t s = 0; s < scales_; ++s) {
    const PixelStatistics& k = statistics(i, s);
    const double scale = k.elementStd > 0 ? 1.0 / (k.elementStd * static_cast<double>(scales_)) : 0.0;
    for (int64_t p = 0; p < height_ * width_; ++p)
      map[p] += static_cast<float>((static_cast<double>(kl(i, s)[p]) - k.elementMean) * scale);
  }
}

void combineMaps(const ScoreConfig& config, std::vector<float>& pixel, const std::vector<float>& feature) {
  const bool perImage = config.normalization == Normalization::kPerImage;
  const auto a = static_cast<float>(perImage ? 1.0 : config.alpha);
  const auto b = static_cast<float>(perImage ? 1.0 : 1.0 - config.alpha);
  for (size_t p = 0; p < pixel.size(); ++p) pixel[p] = a * pixel[p] + b * feature[p];
}

}  // namespace ddad
