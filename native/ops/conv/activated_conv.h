#pragma once
#include <memory>

#include "graph/op.h"

namespace ddad {

/// Convolution with an activation and backward, over what `makePlain` makes: the kernels have an activation in
/// inference only.
std::unique_ptr<Op> makeActivatedConv(const OpContext& context, std::unique_ptr<Op> (*makePlain)(const OpContext&));

}  // namespace ddad
