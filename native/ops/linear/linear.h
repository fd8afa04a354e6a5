#pragma once
// A linear layer over vectors.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeLinear(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaLinear(OpContext context);

}  // namespace ddad
