#pragma once
// Timing of alternatives on the GPU, while ops are compiled.
#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "device/cuda/device_cuda.h"

namespace ddad {

/// Memory for trials, filled with small numbers other than zero (in float32 and bf16); none where there is too little.
class TrialMemory {
 public:
  TrialMemory(const CudaDevice& device, int64_t bytes) : device_(device) {
    try {
      data_ = static_cast<char*>(device.allocate(std::max<int64_t>(bytes, 256)));
    } catch (const Error& error) {
      if (error.code() != "ERR_MEMORY") throw;
      return;
    }
    constexpr int kByte = 0x3c;  // 0x3c3c3c3c and 0x3c3c are both about 0.0115
    if (cudaMemsetAsync(data_, kByte, static_cast<size_t>(bytes), device.stream()) != cudaSuccess) cudaGetLastError();
  }
  ~TrialMemory() {
    if (data_) device_.release(data_);
  }
  TrialMemory(const TrialMemory&) = delete;
  TrialMemory& operator=(const TrialMemory&) = delete;
  char* data() const { return data_; }

 private:
  const CudaDevice& device_;
  char* data_ = nullptr;
};

/// Milliseconds that the work which `enqueue` puts on the stream takes, the shortest of a few runs after a first one
/// that does not count; infinite where it fails (`enqueue` returns false, or the device says so). One run is enough
/// where it takes twice as long as `bestSoFar`.
template <class Enqueue>
float measure(const CudaDevice& device, const Enqueue& enqueue,
              float bestSoFar = std::numeric_limits<float>::infinity()) {
  constexpr int kRuns = 4;
  constexpr float kNever = std::numeric_limits<float>::infinity();
  const cudaStream_t stream = device.stream();
  if (!enqueue() || cudaStreamSynchronize(stream) != cudaSuccess) {
    cudaGetLastError();
    return kNever;
  }
  cudaEvent_t start = nullptr, stop = nullptr;
  checkCuda(cudaEventCreate(&start), "making an event");
  if (const cudaError_t status = cudaEventCreate(&stop); status != cudaSuccess) {
    cudaEventDestroy(start);
    checkCuda(status, "making an event");
  }
  float best = kNever;
  for (int i = 0; i < kRuns; ++i) {
    float time = kNever;
    if (cudaEventRecord(start, stream) != cudaSuccess || !enqueue() || cudaEventRecord(stop, stream) != cudaSuccess ||
        cudaEventSynchronize(stop) != cudaSuccess || cudaEventElapsedTime(&time, start, stop) != cudaSuccess) {
      cudaGetLastError();
      best = kNever;
      break;
    }
    best = std::min(best, time);
    if (best > 2 * bestSoFar) break;
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return best;
}

}  // namespace ddad
