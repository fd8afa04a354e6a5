#pragma once
#include "graph/op_functions.h"

namespace ddad {

/// The ops of the GPU.
const OpFunctions& cudaOpFunctions();

}  // namespace ddad
