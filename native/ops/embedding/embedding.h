#pragma once
// Timesteps as sines and cosines; labels as rows of a table, added to a vector.
#include <memory>

#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeTimestepEmbedding(OpContext context);
std::unique_ptr<Op> makeLabelEmbedding(OpContext context);
/// On the GPU.
std::unique_ptr<Op> makeCudaTimestepEmbedding(OpContext context);
std::unique_ptr<Op> makeCudaLabelEmbedding(OpContext context);

}  // namespace ddad
