#pragma once
#include "train/optimizer_functions.h"

namespace ddad {

/// The optimiser of the GPU.
const OptimizerFunctions& cudaOptimizerFunctions();

}  // namespace ddad
