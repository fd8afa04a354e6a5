#pragma once
#include <memory>
#include <vector>

#include "backbone/features.h"
#include "export/export.h"
#include "export/onnx_model.h"
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
  bool ownNoise = true;

  int64_t imageHeight() const { return height * scale; }
  int64_t imageWidth() const { return width * scale; }
};

/// Throws ERR_MODEL_FORMAT, ERR_CONFIG, and ERR_OPTION where the options ask for what the graph cannot do.
ScoreSetup openScoreSetup(const ExportSource& source, const OnnxOptions& options);

/// The scoring of one whole image for each row of the batch, as ScoreLane does it, from x_0 to the image score:
///
///   x0 [N, C, H, W] -> noised -> UNet -> kl [N, S, h, w] (rgb where that is judged by) -> pixelMap [N, H, W]
///      -> backbone; fhat -> featureError [N, S, h / 4, w / 4] -> featureMap [N, H, W]
///      -> map [N, H, W] -> score [N]
///
/// with S noise scales, h and w what the network sees. noise [N, S C, h, w] is an input or the engine's own, a
/// constant. `source` and `setup` must outlive the model.
void buildScoreGraph(OnnxModel& model, const ExportSource& source, const ScoreSetup& setup);

}  // namespace ddad
