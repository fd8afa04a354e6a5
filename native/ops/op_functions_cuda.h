#pragma once
#include "ops/op_functions.h"

namespace ddad {

/// The ops of the GPU.
const OpFunctions& cudaOpFunctions();

}  // namespace ddad
