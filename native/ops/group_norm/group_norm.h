#pragma once
// Group norm of one or two sources, with the embedding before or after it and an activation.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeGroupNorm(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaGroupNorm(OpContext context);

}  // namespace ddad
