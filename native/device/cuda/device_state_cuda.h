#pragma once
// What a CUDA device, its shares and its recordings have in common: one stream and all that runs on it, and one for
// the copies beside it.
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device/choices.h"
#include "device/cuda/check_cuda.h"
#include "device/device.h"

namespace ddad {

struct CudaDeviceState {
  static constexpr int64_t kStaged = 4 << 20;  // bytes that stay valid, and the most at a time
  static constexpr int64_t kAlign = 256;

  /// Throws ERR_DEVICE, as the constructor of CudaDevice does.
  CudaDeviceState(int ordinal, const DeviceFunctions& functions);
  ~CudaDeviceState();
  CudaDeviceState(const CudaDeviceState&) = delete;
  CudaDeviceState& operator=(const CudaDeviceState&) = delete;

  /// Makes the GPU the calling thread's.
  void select() const { checkCuda(cudaSetDevice(ordinal), "selecting the GPU"); }
  /// Waits for a stream before what it uses is given back, whether its work failed or not. False at the end of the
  /// process, where the driver may be gone already, and has freed everything.
  bool drain(cudaStream_t enqueued) const noexcept;
  /// Throws ERR_INTERNAL while work is being recorded.
  void refuseWhileRecording(const char* what) const;

  const int ordinal;
  const DeviceFunctions functions;
  int multiprocessors = 0;
  cudaStream_t stream = nullptr, uploads = nullptr;
  cudnnHandle_t cudnn = nullptr;
  cublasLtHandle_t cublasLt = nullptr;
  std::unique_ptr<Choices> choices;
  bool recording = false;

  std::mutex mutex;  // of what follows
  // Twice kStaged, so that as much stays valid whatever is skipped at the end of the ring.
  char *ring = nullptr, *deviceRing = nullptr;
  int64_t ringUsed = 0;
  // The last is in use. Those that it replaced stay: recorded work may still name them.
  std::vector<void*> scratch;
  int64_t scratchBytes = 0;

 private:
  void open();
  void close() noexcept;
};

/// The number of GPUs. Throws ERR_DEVICE, saying what is missing, where there is no driver, none that is new enough, or
/// no GPU.
int cudaGpuCount();

/// "13.0" of 13000.
std::string cudaVersionText(int version);

}  // namespace ddad
