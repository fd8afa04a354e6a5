#include "device/cuda/probe_cuda.h"

namespace ddad {
namespace {

__global__ void emptyKernel() {}

}  // namespace

cudaError_t probeKernel() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&emptyKernel));
}

}  // namespace ddad
