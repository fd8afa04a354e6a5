#pragma once
// Own kernels of the GPU, written so that the CPU runs the very same body: a kernel is a struct that holds its
// arguments and is cut into phases. Threads of a block share `Shared`; between phases lies a barrier, and nothing else
// passes from one phase to the next.
//
//   struct Scale {
//     static constexpr int kThreads = 256, kPhases = 1;
//     struct Shared {};
//     float* x; long n; float factor;
//     template <int kPhase>
//     DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const { ... }
//   };
//
// On the GPU launchGrid (device/grid_cuda.cuh) starts it; tests run it on the CPU with runGrid.
#include <cstdint>
#include <memory>

#include "tensor/host_device.h"

namespace ddad {

/// A block's place in the grid, or a grid's extent.
struct GridIndex {
  int x = 0, y = 0;
};

template <class Kernel, int kPhase = 0>
void runPhases(const Kernel& kernel, GridIndex block, typename Kernel::Shared& shared) {
  if constexpr (kPhase < Kernel::kPhases) {
    for (int thread = 0; thread < Kernel::kThreads; ++thread) kernel.template run<kPhase>(block, thread, shared);
    runPhases<Kernel, kPhase + 1>(kernel, block, shared);
  }
}

/// Every block of the grid, one after the other, on the calling thread.
template <class Kernel>
void runGrid(const Kernel& kernel, GridIndex extent) {
  const auto shared = std::make_unique<typename Kernel::Shared>();
  for (int y = 0; y < extent.y; ++y)
    for (int x = 0; x < extent.x; ++x) runPhases(kernel, GridIndex{x, y}, *shared);
}

/// Blocks of `size` that hold n things.
DDAD_HD int64_t blocksOf(int64_t n, int64_t size) { return (n + size - 1) / size; }

}  // namespace ddad
