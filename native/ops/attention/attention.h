#pragma once
// Self-attention over the pixels of an image.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeAttention(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaAttention(OpContext context);

}  // namespace ddad
