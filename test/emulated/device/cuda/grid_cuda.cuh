#pragma once
// Stands for native/device/cuda/grid_cuda.cuh: a kernel's grid runs on the CPU, as work of the stream.
#include <cuda_runtime.h>

#include "base/error.h"
#include "device/grid.h"

namespace ddad {

template <class Kernel>
void launchGrid(cudaStream_t stream, const Kernel& kernel, GridIndex extent) {
  if (extent.x < 1 || extent.y < 1) return;
  emulated::enqueue(stream, [kernel, extent] { runGrid(kernel, extent); });
}

template <class Kernel>
void launchGrid(cudaStream_t stream, const Kernel& kernel) {
  emulated::enqueue(stream, [kernel] { runGrid(kernel); });
}

}  // namespace ddad
