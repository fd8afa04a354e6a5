#include "reverse/gradient_rounds.h"

namespace ddad {

GradientRounds::GradientRounds(const Device& device, ReverseChain& chain, FeatureDistance& distance,
                               std::shared_ptr<const FeatureGaussian> gaussian, GradientSettings settings,
                               int64_t images, int64_t elements, int64_t channels)
    : device_(device),
      chain_(chain),
      distance_(distance),
      gaussian_(std::move(gaussian)),
      settings_(settings),
      images_(images),
      elements_(elements),
      channels_(channels),
      gradient_(device, images * elements) {}

void GradientRounds::gradientStep(const Cancel& cancel) {
  distance_.run(*gaussian_, chain_.imageOnDevice(0), channels_, cancel);
  distance_.gradient(channels_, gradient_.data(), cancel);
  for (int64_t i = 0; i < images_; ++i)
    descend(device_, elements_, settings_.stepSize, gradient_.data() + i * elements_, chain_.imageOnDevice(i));
}

void GradientRounds::round(const Cancel& cancel) {
  for (int i = 0; i < settings_.gradientSteps; ++i) gradientStep(cancel);
  denoise(cancel);
}

}  // namespace ddad
