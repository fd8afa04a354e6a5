#pragma once
// The CUDA device, inside its own shared library: files *_cuda.cpp, *.cu and nothing else see this.
#include <memory>
#include <string>

#include "base/error.h"
#include "device/choices.h"
#include "device/cuda/check_cuda.h"
#include "device/device.h"

namespace ddad {

struct CudaDeviceState;

class CudaDevice : public Device {
 public:
  /// Throws ERR_DEVICE where there is no such GPU, or none that this build has code for.
  CudaDevice(int ordinal, int threads, Precision precision, const DeviceFunctions& functions);
  ~CudaDevice() override;

  bool sharesHostMemory() const override { return false; }
  bool weightsChannelsLast() const override { return true; }
  std::shared_ptr<Device> share(int threads) const override;
  int concurrentImages() const override { return 1; }
  void* allocate(int64_t bytes) const override;
  void release(void* memory) const noexcept override;
  void* allocateStaging(int64_t bytes) const override;
  void releaseStaging(void* memory) const noexcept override;
  void upload(void* to, const void* from, int64_t bytes) const override;
  void download(void* to, const void* from, int64_t bytes) const override;
  void copy(void* to, const void* from, int64_t bytes) const override;
  void clear(void* to, int64_t bytes) const override;
  std::unique_ptr<AsyncUpload> asyncUpload() const override;
  void synchronize() const override;
  std::unique_ptr<Recording> record() const override;
  int64_t availableBytes() const override;
  const DeviceFunctions& functions() const override;

  /// Everything but AsyncUpload runs on this one stream; makes the GPU the calling thread's current one.
  cudaStream_t stream() const;
  cudnnHandle_t cudnn() const;        // on the stream
  cublasLtHandle_t cublasLt() const;  // products name the stream themselves
  int multiprocessors() const;
  /// Whether work is being recorded now: nothing may be measured, allocated or waited for.
  bool recording() const;

  /// Copies a small array of the host for the kernels that are enqueued next; valid until as much as the ring holds
  /// (4 MB) has been staged after it. Must not be called while recording: what is recorded would keep today's values.
  const void* stage(const void* from, int64_t bytes) const;
  template <class T>
  const T* stage(const T* from, int64_t count) const {
    return static_cast<const T*>(stage(static_cast<const void*>(from), count * static_cast<int64_t>(sizeof(T))));
  }
  /// Scratch for partial sums of kernels outside plans, valid until the next call: the stream orders its users.
  void* scratch(int64_t bytes) const;

  /// Choices measured on this GPU with this cuDNN, kept on disk; null where DDAD_AUTOTUNE is off or nothing can be
  /// kept.
  Choices* choices() const;

 private:
  friend class CudaRecording;
  friend class CudaAsyncUpload;
  CudaDevice(std::shared_ptr<CudaDeviceState> state, int threads, Precision precision);

  std::shared_ptr<CudaDeviceState> state_;  // shared by the device, its shares and its recordings
};

/// The device behind an OpContext or a layer's function.
inline const CudaDevice& cudaDevice(const Device& device) { return static_cast<const CudaDevice&>(device); }

}  // namespace ddad
