#pragma once
// The two graphs that a model can be exported as.
#include "export/onnx_model.h"
#include "export/source.h"

namespace ddad {

/// Inputs x [N, C, H, W], t [N] (the original step), y [N] of a conditional model; outputs out [N, 2C, H, W] and where
/// there is a head fhat [N, F, H / 4, W / 4]. N, H and W are open. `source` must outlive the model.
void buildUNetGraph(OnnxModel& model, const ExportSource& source);

}  // namespace ddad
