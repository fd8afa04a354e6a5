#pragma once
#include <cuda_runtime.h>

namespace ddad {

/// Whether this build has code for the current GPU: cudaErrorNoKernelImageForDevice where it has none.
cudaError_t probeKernel();

}  // namespace ddad
