#pragma once
#include "noise/noise_functions.h"

namespace ddad {

/// The diffusion process on the GPU.
const NoiseFunctions& cudaNoiseFunctions();

}  // namespace ddad
