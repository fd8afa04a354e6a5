#pragma once
// Starts a kernel of device/grid.h on the GPU. For .cu files.
#include <cuda_runtime.h>

#include <string>

#include "base/error.h"
#include "device/grid.h"

namespace ddad {

template <class Kernel, int kPhase = 0>
__device__ __forceinline__ void devicePhases(const Kernel& kernel, GridIndex block, int thread,
                                             typename Kernel::Shared& shared) {
  kernel.template run<kPhase>(block, thread, shared);
  if constexpr (kPhase + 1 < Kernel::kPhases) {
    __syncthreads();
    devicePhases<Kernel, kPhase + 1>(kernel, block, thread, shared);
  }
}

/// Blocks that a multiprocessor is to hold at once, which bounds the registers of a thread: kBlocks where a kernel says
/// so.
template <class Kernel>
constexpr int blocksTogether() {
  if constexpr (requires { Kernel::kBlocks; })
    return Kernel::kBlocks;
  else
    return 1;
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, blocksTogether<Kernel>())
    gridKernel(const __grid_constant__ Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
  devicePhases(kernel, GridIndex{static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y)},
               static_cast<int>(threadIdx.x), shared);
}

/// Enqueues the kernel; an empty extent does nothing. Throws ERR_DEVICE where it cannot be started.
template <class Kernel>
void launchGrid(cudaStream_t stream, const Kernel& kernel, GridIndex extent) {
  if (extent.x < 1 || extent.y < 1) return;
  gridKernel<Kernel>
      <<<dim3(static_cast<unsigned>(extent.x), static_cast<unsigned>(extent.y)), Kernel::kThreads, 0, stream>>>(kernel);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw Error("ERR_DEVICE", std::string("a kernel could not be started: ") + cudaGetErrorString(error));
}

/// The same over the extent that the kernel names.
template <class Kernel>
void launchGrid(cudaStream_t stream, const Kernel& kernel) {
  if constexpr (ItemKernel<Kernel>) {
    const Items<Kernel> items{kernel};
    launchGrid(stream, items, items.extent());
  } else {
    launchGrid(stream, kernel, kernel.extent());
  }
}

}  // namespace ddad
