#pragma once
#include <memory>

#include "graph/op.h"

namespace ddad {

/// Winograd takes 3x3 convolutions with stride 1 and padding 1 of one source.
bool winogradFits(const OpContext& context);
/// Whether it usually is the fastest then.
bool winogradPreferred(const OpContext& context);
std::unique_ptr<Op> makeWinogradConv(OpContext context);

}  // namespace ddad
