#include <algorithm>
#include <cstdint>

#include "device/cuda/grid_cuda.cuh"
#include "ops/elementwise/kernels_cuda.h"
#include "ops/elementwise/row_sums_grid.h"

namespace ddad {
namespace {

constexpr int64_t kBlocksAProcessor = 8;

template <class T>
void sumColumns(const CudaDevice& device, const T* x, int64_t rows, int64_t columns, float* to) {
  using Kernel = ColumnSums<T>;
  const int64_t across = blocksOf(columns, Kernel::kColumns * kRun),
                wanted = std::max<int64_t>(1, kBlocksAProcessor * device.multiprocessors() / across);
  // a thread with fewer than four rows would only wait
  const int64_t chunkRows = std::max<int64_t>(4 * Kernel::kLanes, blocksOf(rows, wanted));
  const int64_t chunks = blocksOf(rows, chunkRows);
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0 && columns % kRun == 0;
  auto* const partial = static_cast<float*>(device.scratch(chunks * columns * static_cast<int64_t>(sizeof(float))));
  const Kernel sums{x, partial, rows, columns, chunkRows, aligned};
  launchGrid(device.stream(), sums);
  const ColumnTotals totals{partial, to, chunks, columns};
  launchGrid(device.stream(), totals);
}

}  // namespace

void columnSumsCuda(const CudaDevice& device, const void* x, bool half, int64_t rows, int64_t columns, float* to) {
  if (half)
    sumColumns(device, static_cast<const Bf16*>(x), rows, columns, to);
  else
    sumColumns(device, static_cast<const float*>(x), rows, columns, to);
}

void softmaxRowsCuda(const CudaDevice& device, float* scores, int64_t rows, int64_t columns, float scale) {
  const SoftmaxRows kernel{scores, rows, columns, scale};
  launchGrid(device.stream(), kernel);
}

void softmaxRowsGradientCuda(const CudaDevice& device, const float* p, float* gradient, int64_t rows, int64_t columns,
                             float scale) {
  const SoftmaxRowsGradient kernel{p, gradient, rows, columns, scale};
  launchGrid(device.stream(), kernel);
}

void findNonFiniteCuda(const CudaDevice& device, const float* x, int64_t n, int32_t* result) {
  const FindNonFinite kernel{x, n, result};
  launchGrid(device.stream(), kernel);
}

}  // namespace ddad
