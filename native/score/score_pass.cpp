#include "score/score_pass.h"

#include "tensor/philox.h"

namespace ddad {
namespace {

PlanOptions planOptions(int64_t batch, int64_t height, int64_t width) {
  PlanOptions options;
  options.batch = batch;
  options.height = height;
  options.width = width;
  return options;
}

}  // namespace

ScorePass::ScorePass(const Device& device, const UNet& net, const ScoreConfig& config, ParameterBlock& parameters,
                     int64_t images, int64_t height, int64_t width, PlanMemory* memory)
    : device_(device),
      net_(net),
      config_(config),
      images_(images),
      height_(height),
      width_(width),
      channels_(config.unet.inChannels),
      scales_(static_cast<int64_t>(config.steps.size())),
      pixels_(images * height * width * channels_),
      kl_(images * scales_ * height * width),
      maps_(images * height * width),
      noise_(static_cast<size_t>(scales_)),
      statistics_(static_cast<size_t>(images * scales_)),
      labels_(static_cast<size_t>(images)),
      plan_(device, net.graph, planOptions(images * scales_, height, width), parameters, memory) {
  for (int64_t s = 0; s < scales_; ++s) {
    const auto index = static_cast<size_t>(s);
    coefficients_.push_back(stepCoefficients(config.schedule, config.steps[index]));
    const auto count = static_cast<double>(scales_);
    if (config.normalization == Normalization::kCalibration)
      terms_.push_back({static_cast<float>(1.0 / (config.std[index] * count)),
                        static_cast<float>(-config.mean[index] / (config.std[index] * count))});
    else
      terms_.push_back({static_cast<float>(1.0 / count), 0.0f});
  }
}

void ScorePass::run(const uint32_t* samples, const Cancel& cancel) {
  const ImageBatch batch = {scales_, height_ * width_, static_cast<int>(channels_)};
  const int threads = device_.threads();
  const auto sources = [&](int64_t i) {
    for (size_t s = 0; s < noise_.size(); ++s) {
      noise_[s] = NoiseSource();
      noise_[s].seed = config_.seed;
      noise_[s].stream = kStreamScoreNoise;
      noise_[s].step = static_cast<uint32_t>(s);
      noise_[s].sample = samples[i];
    }
    return noise_.data();
  };
  const int64_t perImage = scales_ * height_ * width_;
  for (int64_t i = 0; i < images_; ++i) {
    for (int64_t s = 0; s < scales_; ++s) {
      const int step = config_.steps[static_cast<size_t>(s)];
      plan_.value(net_.t)[i * scales_ + s] =
          static_cast<float>(config_.schedule.timestepMap[static_cast<size_t>(step)]);
      if (net_.y >= 0) plan_.value(net_.y)[i * scales_ + s] = static_cast<float>(labels_[static_cast<size_t>(i)]);
    }
    noising(batch, {image(i), 0}, coefficients_.data(), sources(i), plan_.value(net_.x) + i * perImage * channels_,
            threads);
  }
  plan_.forward(cancel);
  for (int64_t i = 0; i < images_; ++i)
    klScore(batch, {image(i), 0}, plan_.value(net_.out) + i * perImage * 2 * channels_, coefficients_.data(),
            sources(i), terms_.data(), kl_.data() + i * perImage,
            config_.normalization == Normalization::kPerImage ? statistics_.data() + i * scales_ : nullptr,
            maps_.data() + i * height_ * width_, threads);
}

}  // namespace ddad
