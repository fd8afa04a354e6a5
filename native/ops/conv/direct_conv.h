#pragma once
#include <memory>

#include "graph/op.h"

namespace ddad {

/// Takes every convolution.
std::unique_ptr<Op> makeDirectConv(const OpContext& context);

}  // namespace ddad
