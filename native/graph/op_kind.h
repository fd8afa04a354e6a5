#pragma once
#include "graph/graph.h"

namespace ddad {

/// A word for the kind ("conv"); null for a number that is no kind.
const char* opKindName(OpKind kind);

}  // namespace ddad
