// Work that is replayed as a CUDA graph: one launch instead of one for each kernel.
#include <cstdlib>
#include <string>

#include "device/cuda/device_cuda.h"
#include "device/cuda/device_state_cuda.h"

namespace ddad {

/// The first run does the work itself, so that what is made at first use (code that is loaded, plans, scratch) is
/// there; the second records it; the others replay it.
class CudaRecording : public Recording {
 public:
  explicit CudaRecording(std::shared_ptr<CudaDeviceState> state) : state_(std::move(state)) {}
  ~CudaRecording() override {
    if (!executable_) return;
    if (state_->drain(state_->stream)) cudaGraphExecDestroy(executable_);
    cudaGetLastError();
  }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  void run(void (*work)(void*), void* context) override {
    state_->select();
    if (state_->recording) return work(context);  // becomes a part of what is being recorded
    if (!hasRun_) {
      work(context);
      hasRun_ = true;
      return;
    }
    if (!executable_) record(work, context);
    checkCuda(cudaGraphLaunch(executable_, state_->stream), "replaying recorded work");
  }

 private:
  /// Leaves the recording as it was where the work or the capture fails.
  void record(void (*work)(void*), void* context) {
    // Relaxed: libraries may load code or ask for attributes, and other threads may do as they like.
    checkCuda(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeRelaxed), "starting to record");
    state_->recording = true;
    try {
      work(context);
    } catch (...) {
      cudaGraph_t rest = nullptr;
      endCapture(&rest);
      if (rest) cudaGraphDestroy(rest);
      cudaGetLastError();
      throw;
    }
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = endCapture(&graph);
    cudaError_t status = ended;
    if (status == cudaSuccess) status = cudaGraphInstantiate(&executable_, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (status == cudaSuccess) return;
    executable_ = nullptr;
    checkCuda(status, ended == cudaSuccess ? "preparing recorded work" : "recording work");
  }

  cudaError_t endCapture(cudaGraph_t* graph) {
    state_->recording = false;
    return cudaStreamEndCapture(state_->stream, graph);
  }

  std::shared_ptr<CudaDeviceState> state_;
  cudaGraphExec_t executable_ = nullptr;
  bool hasRun_ = false;
};

std::unique_ptr<Recording> CudaDevice::record() const {
  const char* text = std::getenv("DDAD_CUDA_GRAPHS");
  const std::string value = text ? text : "";
  if (!value.empty() && value != "on" && value != "off")
    throw Error("ERR_OPTION", "DDAD_CUDA_GRAPHS: expected on or off, got " + value);
  if (value == "off") return nullptr;
  return std::make_unique<CudaRecording>(state_);
}

}  // namespace ddad
