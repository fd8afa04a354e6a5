#include "score/score_pass.h"

#include <algorithm>

#include "score/residual_memory.h"
#include "tensor/philox.h"

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
      pixels_(images * height * width * scale_ * scale_ * channels_),
      reduced_(scale_ > 1 ? images * height * width * channels_ : 0),
      kl_(images * scales_ * height * width),
      coarse_(scale_ > 1 ? height * width : 0),
      maps_(images * height * width * scale_ * scale_),
      noise_(static_cast<size_t>(scales_)),
      statistics_(static_cast<size_t>(images * scales_)),
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
  target_ = AlignedBuffer(images * positions * features->channels());
  errors_ = AlignedBuffer(images * scales_ * positions);
  grid_ = AlignedBuffer(positions);
  featureMaps_ = AlignedBuffer(maps_.size());
  residuals_ = AlignedBuffer(2 * positions * features->channels());
}

void ScorePass::use(const ScoreConfig& config) {
  config_ = &config;
  if (config.normalization == Normalization::kNone && rgb_.size() == 0) rgb_ = AlignedBuffer(kl_.size());
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

void ScorePass::run(const uint32_t* samples, const Cancel& cancel, const float* noise) {
  const ImageBatch batch = {scales_, height_ * width_, static_cast<int>(channels_)};
  const int threads = device_.threads();
  const int64_t perImage = scales_ * height_ * width_;
  const auto sources = [&](int64_t i) {
    for (size_t s = 0; s < noise_.size(); ++s) {
      noise_[s] = NoiseSource();
      if (noise) noise_[s].given = noise + i * perImage * channels_ + static_cast<int64_t>(s) * batch.elements();
      noise_[s].seed = config_->seed;
      noise_[s].stream = kStreamScoreNoise;
      noise_[s].step = static_cast<uint32_t>(s);
      noise_[s].sample = samples[i];
    }
    return noise_.data();
  };
  if (scale_ > 1) reduceImages(pixels_.data(), images_, height_, width_, channels_, scale_, reduced_.data());
  for (int64_t i = 0; i < images_; ++i) {
    for (int64_t s = 0; s < scales_; ++s) {
      const int step = config_->steps[static_cast<size_t>(s)];
      plan_.value(net_.t)[i * scales_ + s] =
          static_cast<float>(config_->schedule.timestepMap[static_cast<size_t>(step)]);
      if (net_.y >= 0) plan_.value(net_.y)[i * scales_ + s] = static_cast<float>(labels_[static_cast<size_t>(i)]);
    }
    noising(batch, {xStart(i), 0}, coefficients_.data(), sources(i), plan_.value(net_.x) + i * perImage * channels_,
            threads);
  }
  plan_.forward(cancel);
  const PixelMeasure measure = config_->kind == ScoreKind::kRgb ? PixelMeasure::kReconstruction : PixelMeasure::kKl;
  const bool perImageNorm = config_->normalization == Normalization::kPerImage;
  for (int64_t i = 0; i < images_; ++i) {
    float* map = maps_.data() + i * imageHeight() * imageWidth();
    float* coarse = scale_ > 1 ? coarse_.data() : map;
    const float* output = plan_.value(net_.out) + i * perImage * 2 * channels_;
    pixelScore(measure, batch, {xStart(i), 0}, output, coefficients_.data(), sources(i), terms_.data(),
               kl_.data() + i * perImage, perImageNorm ? statistics_.data() + i * scales_ : nullptr, coarse, threads);
    if (config_->normalization == Normalization::kNone)
      pixelScore(PixelMeasure::kReconstruction, batch, {xStart(i), 0}, output, coefficients_.data(), sources(i),
                 nullptr, rgb_.data() + i * perImage, nullptr, nullptr, threads);
    if (perImageNorm) normalisePerImage(i, coarse);
    if (scale_ > 1) enlarge_.run(coarse, map);
  }
  if (!extractor_) return;
  extractor_->run(pixels_.data(), channels_, target_.data(), cancel);
  for (int64_t i = 0; i < images_; ++i) scoreFeatures(i);
}

void ScorePass::scoreFeatures(int64_t i) {
  const int64_t positions = gridHeight() * gridWidth(), channels = features_->channels();
  std::fill_n(grid_.data(), positions, 0.0f);
  for (int64_t s = 0; s < scales_; ++s) {
    float* errors = errors_.data() + (i * scales_ + s) * positions;
    featureError(device_, plan_.value(net_.features) + (i * scales_ + s) * positions * channels,
                 target_.data() + i * positions * channels, positions, channels, errors);
    const EnsembleTerm term = featureTerms_[static_cast<size_t>(s)];
    for (int64_t p = 0; p < positions; ++p) grid_.data()[p] += errors[p] * term.scale + term.offset;
  }
  // resizing is linear, so the sum is resized, not each scale
  spread_.run(grid_.data(), featureMaps_.data() + i * imageHeight() * imageWidth());
}

const float* ScorePass::pooledResiduals(int64_t i) {
  const int64_t elements = gridHeight() * gridWidth() * features_->channels();
  float* out = residuals_.data() + elements;
  ddad::pooledResiduals(device_, plan_.value(net_.features) + i * scales_ * elements, features(i), scales_,
                        gridHeight(), gridWidth(), features_->channels(), residuals_.data(), out);
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
