#pragma once
#include "export/onnx_model.h"
#include "export/score_setup.h"
#include "export/source.h"

namespace ddad {

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
