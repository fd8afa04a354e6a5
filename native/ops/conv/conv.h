#pragma once
// Convolution, NHWC activations, OIHW weights: kernels of one to seven, stride 1 or 2, bias, a residual added on the
// way out, and (1x1 only) two sources that stand for their concatenation.
#include <memory>

#include "graph/op.h"

namespace ddad {

/// By whichever kernel is fastest, or is chosen: see conv_kernels.h.
std::unique_ptr<Op> makeConv(const OpContext& context);
/// On the GPU.
std::unique_ptr<Op> makeCudaConv(OpContext context);

}  // namespace ddad
