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
// One that gives each thread an item of its own, whatever block it is in, says no more than how many there are and what
// is done to one:
//
//   struct Scale {
//     float* x; int64_t n; float factor;
//     DDAD_HD_MEMBER int64_t items() const { return n; }
//     DDAD_HD_MEMBER void item(int64_t i) const { x[i] *= factor; }
//   };
//
// On the GPU launchGrid (device/cuda/grid_cuda.cuh) starts it; tests run it on the CPU with runGrid.
#include <cstdint>
#include <memory>

#include "base/host_device.h"

namespace ddad {

/// A block's place in the grid, or a grid's extent.
struct GridIndex {
  int x = 0, y = 0;
};

/// Blocks of `size` that hold n things.
DDAD_HD int64_t blocksOf(int64_t n, int64_t size) { return (n + size - 1) / size; }

template <class Kernel>
concept ItemKernel = requires(const Kernel& kernel, int64_t i) {
  kernel.items();
  kernel.item(i);
};

/// A kernel of items as one of blocks.
template <ItemKernel Kernel>
struct Items {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  Kernel kernel;

  GridIndex extent() const { return {static_cast<int>(blocksOf(kernel.items(), kThreads)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t i = static_cast<int64_t>(block.x) * kThreads + thread;
    if (i < kernel.items()) kernel.item(i);
  }
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

/// The same over the extent that the kernel names.
template <class Kernel>
void runGrid(const Kernel& kernel) {
  if constexpr (ItemKernel<Kernel>) {
    const Items<Kernel> items{kernel};
    runGrid(items, items.extent());
  } else {
    runGrid(kernel, kernel.extent());
  }
}

}  // namespace ddad
