#pragma once
#include "graph/op.h"

namespace ddad {

/// Whether the shapes and attributes fit the op, on every device; throws Error("ERR_CONFIG") with the op's name where
/// they do not.
void checkOp(const OpContext& context);

}  // namespace ddad
