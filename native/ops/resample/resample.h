#pragma once
// Nearest upsampling by 2 and average pooling by 2.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeResample(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaResample(OpContext context);

}  // namespace ddad
