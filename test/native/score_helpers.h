#pragma once
// Scorers and requests that tests of scoring share.
#include <cstdint>
#include <memory>
#include <vector>

#include "device/open_device.h"
#include "nlohmann/json.hpp"
#include "random_values.h"
#include "score/scorer.h"
#include "small_model.h"
#include "train/trainer.h"

namespace ddad::testing {

inline std::vector<uint8_t> picture(int width, int height, int channels = 1) {
  std::vector<uint8_t> pixels(static_cast<size_t>(width * height * channels));
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>((i * 37) % 251);
  return pixels;
}

/// A request for `pixels`, which must outlive it.
inline ScoreRequest request(const std::vector<uint8_t>& pixels, int width, int height, int channels = 1) {
  ScoreRequest r;
  r.data = pixels.data();
  r.width = width;
  r.height = height;
  r.channels = channels;
  return r;
}

/// A scorer of a model with features after a few steps on noise.
inline std::unique_ptr<Scorer> featureScorer(const nlohmann::json& config) {
  Trainer trainer(openDevice("cpu", 2), config, packagedBackbone());
  const auto pixels = randomValues(trainer.batchFloats(), 10);
  trainer.observe(pixels.data(), Cancel());
  for (int i = 0; i < 3; ++i) trainer.step(pixels.data(), nullptr, 1e-3, Cancel());
  return trainer.toScorer(config);
}

}  // namespace ddad::testing
