// Copies to the GPU on a stream of their own.
#include "device/cuda/device_cuda.h"
#include "device/cuda/device_state_cuda.h"

namespace ddad {

class CudaAsyncUpload : public AsyncUpload {
 public:
  explicit CudaAsyncUpload(std::shared_ptr<CudaDeviceState> state) : state_(std::move(state)) {
    state_->select();
    try {
      for (cudaEvent_t* event : {&used_, &copied_})
        checkCuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "making an event");
    } catch (...) {
      destroyEvents();
      throw;
    }
  }
  ~CudaAsyncUpload() override {
    // The array and what is copied from may go away next.
    if (state_->drain(state_->uploads)) destroyEvents();
    cudaGetLastError();
  }
  CudaAsyncUpload(const CudaAsyncUpload&) = delete;
  CudaAsyncUpload& operator=(const CudaAsyncUpload&) = delete;

  void fence() override {
    state_->refuseWhileRecording("a copy beside it");
    state_->select();
    checkCuda(cudaEventRecord(used_, state_->stream), "marking work");
  }

  void wait() override {
    state_->refuseWhileRecording("waiting");
    state_->select();
    checkCuda(cudaEventSynchronize(copied_), "waiting for a copy to the GPU");
  }

  void start(void* to, const void* from, int64_t bytes) override {
    if (bytes <= 0) return;
    state_->refuseWhileRecording("a copy beside it");
    state_->select();
    checkCuda(cudaStreamWaitEvent(state_->uploads, used_, 0), "ordering a copy to the GPU");
    checkCuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, state_->uploads),
              "copying to the GPU");
    checkCuda(cudaEventRecord(copied_, state_->uploads), "marking a copy");
    checkCuda(cudaStreamWaitEvent(state_->stream, copied_, 0), "ordering a copy to the GPU");
  }

 private:
  void destroyEvents() noexcept {
    for (cudaEvent_t event : {used_, copied_})
      if (event) cudaEventDestroy(event);
  }

  std::shared_ptr<CudaDeviceState> state_;
  cudaEvent_t used_ = nullptr, copied_ = nullptr;  // the array before a copy, and the copy
};

std::unique_ptr<AsyncUpload> CudaDevice::asyncUpload() const { return std::make_unique<CudaAsyncUpload>(state_); }

}  // namespace ddad
