#pragma once
// Squeeze and excitation: channels weighted by a small network over their means.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeSqueezeExcite(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaSqueezeExcite(OpContext context);

}  // namespace ddad
