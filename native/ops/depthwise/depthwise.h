#pragma once
// Depthwise convolution: each channel by a kernel of its own.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeDepthwiseConv(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaDepthwiseConv(OpContext context);

}  // namespace ddad
