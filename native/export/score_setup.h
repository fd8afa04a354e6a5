#pragma once
#include <memory>
#include <vector>

#include "backbone/features.h"
#include "export/onnx_options.h"
#include "export/source.h"
#include "score/score_config.h"

namespace ddad {

/// Everything that the scoring graph of one image size is made of.
struct ScoreSetup {
  ScoreConfig config;
  std::unique_ptr<FeatureSource> features;  // null where the model has none
  std::vector<float> residuals;             // of good images, [rows, channels]; empty where they do not count
  int64_t scale = 1;                        // the image is so many times finer than what the network sees
  int64_t height = 0, width = 0;            // of what the network sees
  int label = 0;
  bool constantNoise = true;

  int64_t imageHeight() const { return height * scale; }
  int64_t imageWidth() const { return width * scale; }
};

/// Throws ERR_MODEL_FORMAT, ERR_CONFIG, and ERR_OPTION where the options ask for what the graph cannot do.
ScoreSetup openScoreSetup(const ExportSource& source, const OnnxOptions& options);

}  // namespace ddad
