#pragma once
#include "backbone/feature_functions.h"

namespace ddad {

/// The backbone's features on the GPU.
const FeatureFunctions& cudaFeatureFunctions();

}  // namespace ddad
