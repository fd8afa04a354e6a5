#include <algorithm>

#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"
#include "train/optimizer_functions_cuda.h"
#include "train/optimizer_grid.h"

namespace ddad {
namespace {

constexpr int64_t kBlocksAProcessor = 8;

void sumOfSquares(const Device& device, const float* x, int64_t n, double* result) {
  const CudaDevice& cuda = cudaDevice(device);
  const int64_t blocks = kBlocksAProcessor * cuda.multiprocessors();
  const int64_t share = std::max<int64_t>(4096, blocksOf(blocksOf(n, blocks), 4) * 4);
  auto* const partial = static_cast<double*>(cuda.scratch(blocksOf(n, share) * static_cast<int64_t>(sizeof(double))));
  const SumOfSquares sums{x, n, share, partial};
  launchGrid(cuda.stream(), sums);
  launchGrid(cuda.stream(), SumOfParts{partial, blocksOf(n, share), result}, GridIndex{1, 1});
}

void adamwEma(const Device& device, float* weights, const float* gradients, float* m, float* v, float* ema, void* half,
              int64_t n, const AdamWStep& s) {
  const AdamwEma kernel{weights, gradients, m, v, ema, static_cast<Bf16*>(half), n, s};
  launchGrid(cudaDevice(device).stream(), kernel);
}

}  // namespace

const OptimizerFunctions& cudaOptimizerFunctions() {
  static const OptimizerFunctions functions = {sumOfSquares, adamwEma};
  return functions;
}

}  // namespace ddad
