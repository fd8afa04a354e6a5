#pragma once
#include <memory>

#include "graph/op.h"

namespace ddad {

/// Null where oneDNN has no such convolution (two sources; a few shapes in a few instruction sets).
std::unique_ptr<Op> makeOnednnConv(const OpContext& context);

}  // namespace ddad
