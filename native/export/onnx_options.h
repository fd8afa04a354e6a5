#pragma once
#include <cstdint>

#include "nlohmann/json.hpp"

namespace ddad {

struct OnnxOptions {
  bool score = false;             // the whole scoring graph; otherwise the UNet
  bool head = true;               // with the feature head, where the model has one (UNet only: scoring needs it)
  bool external = false;          // weights in a file of their own, whatever their size
  nlohmann::json config;          // how to score, where it is not what the model says; null otherwise
  int label = 0;                  // score: of a class-conditional model
  int64_t width = 0, height = 0;  // score: of the image; 0 for the model's own size
  bool constantNoise = true;      // score: the engine's noise is a constant; otherwise it is an input
};

}  // namespace ddad
