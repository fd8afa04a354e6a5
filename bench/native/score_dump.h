#pragma once

namespace ddad::bench {

/// Reads lines "WIDTH HEIGHT GRAY OUT" on stdin: an image of 8-bit gray pixels in a file, as large as the model sees
/// it. Writes to OUT what the scores are made of at these noise steps, as safetensors: "kl" [steps, H, W]; with
/// features also "features" [h, w, C] and "predicted" [steps, h, w, C]. For experiments with calibration and ensembles.
int runScoreDump(const char* model, const char* steps);

}  // namespace ddad::bench
