#pragma once
#include <memory>

#include "ops/op.h"

namespace ddad {

std::unique_ptr<Op> makeCudaConv(OpContext context);
std::unique_ptr<Op> makeCudaDepthwiseConv(OpContext context);
std::unique_ptr<Op> makeCudaGroupNorm(OpContext context);
std::unique_ptr<Op> makeCudaLinear(OpContext context);
std::unique_ptr<Op> makeCudaTimestepEmbedding(OpContext context);
std::unique_ptr<Op> makeCudaLabelEmbedding(OpContext context);
std::unique_ptr<Op> makeCudaAttention(OpContext context);
std::unique_ptr<Op> makeCudaResample(OpContext context);
std::unique_ptr<Op> makeCudaSqueezeExcite(OpContext context);

}  // namespace ddad
