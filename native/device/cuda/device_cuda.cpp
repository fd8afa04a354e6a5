#include "device/cuda/device_cuda.h"

#include <algorithm>
#include <string>

#include "device/cuda/device_state_cuda.h"

namespace ddad {
namespace {

std::string mebibytes(int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

[[noreturn]] void failAllocation(int64_t bytes, const char* where, cudaError_t status) {
  cudaGetLastError();  // is told here, not by the next call
  size_t free = 0, total = 0;
  std::string room;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess)
    room =
        "; the GPU has " + mebibytes(static_cast<int64_t>(free)) + " free of " + mebibytes(static_cast<int64_t>(total));
  else
    cudaGetLastError();
  throw Error(
      status == cudaErrorMemoryAllocation ? "ERR_MEMORY" : "ERR_DEVICE",
      "could not allocate " + mebibytes(bytes) + " of " + where + " (" + cudaGetErrorString(status) + ")" + room);
}

}  // namespace

CudaDevice::CudaDevice(int ordinal, int threads, Precision precision, const DeviceFunctions& functions)
    : Device(threads, precision), state_(std::make_shared<CudaDeviceState>(ordinal, functions)) {}

CudaDevice::CudaDevice(std::shared_ptr<CudaDeviceState> state, int threads, Precision precision)
    : Device(threads, precision), state_(std::move(state)) {}

CudaDevice::~CudaDevice() = default;

std::shared_ptr<Device> CudaDevice::share(int threads) const {
  return std::shared_ptr<Device>(new CudaDevice(state_, threads, precision()));
}

void* CudaDevice::allocate(int64_t bytes) const {
  if (bytes <= 0) return nullptr;
  state_->refuseWhileRecording("memory");
  state_->select();
  void* memory = nullptr;
  if (const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes)); status != cudaSuccess)
    failAllocation(bytes, "the GPU's memory", status);
  if (const cudaError_t status = cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), state_->stream);
      status != cudaSuccess) {
    release(memory);
    checkCuda(status, "clearing memory");
  }
  return memory;
}

void CudaDevice::release(void* memory) const noexcept {
  if (!memory) return;
  // cudaFree waits for what still uses the memory; after an error there is nothing left to tell.
  if (cudaSetDevice(state_->ordinal) != cudaSuccess || cudaFree(memory) != cudaSuccess) cudaGetLastError();
}

void* CudaDevice::allocateStaging(int64_t bytes) const {
  if (bytes <= 0) return nullptr;
  state_->refuseWhileRecording("memory");
  state_->select();
  void* memory = nullptr;
  if (const cudaError_t status = cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault);
      status != cudaSuccess)
    failAllocation(bytes, "page-locked host memory", status);
  return memory;
}

void CudaDevice::releaseStaging(void* memory) const noexcept {
  if (!memory) return;
  // Copies on their way still read or write it.
  if (cudaSetDevice(state_->ordinal) != cudaSuccess || cudaStreamSynchronize(state_->stream) != cudaSuccess)
    cudaGetLastError();
  if (cudaFreeHost(memory) != cudaSuccess) cudaGetLastError();
}

void CudaDevice::upload(void* to, const void* from, int64_t bytes) const {
  if (bytes <= 0) return;
  state_->select();
  checkCuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, state_->stream),
            "copying to the GPU");
}

void CudaDevice::download(void* to, const void* from, int64_t bytes) const {
  if (bytes <= 0) return;
  state_->select();
  checkCuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, state_->stream),
            "copying from the GPU");
}

void CudaDevice::copy(void* to, const void* from, int64_t bytes) const {
  if (bytes <= 0 || to == from) return;
  state_->select();
  checkCuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, state_->stream),
            "copying on the GPU");
}

void CudaDevice::clear(void* to, int64_t bytes) const {
  if (bytes <= 0) return;
  state_->select();
  checkCuda(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), state_->stream), "clearing memory");
}

void CudaDevice::synchronize() const {
  state_->refuseWhileRecording("waiting");
  state_->select();
  checkCuda(cudaStreamSynchronize(state_->stream), "waiting for the GPU");
  checkCuda(cudaGetLastError(), "work on the GPU");
}

int64_t CudaDevice::availableBytes() const {
  state_->select();
  size_t free = 0, total = 0;
  checkCuda(cudaMemGetInfo(&free, &total), "asking for free memory");
  return static_cast<int64_t>(free);
}

const DeviceFunctions& CudaDevice::functions() const { return state_->functions; }

cudaStream_t CudaDevice::stream() const {
  state_->select();
  return state_->stream;
}

cudnnHandle_t CudaDevice::cudnn() const {
  state_->select();
  return state_->cudnn;
}

cublasLtHandle_t CudaDevice::cublasLt() const {
  state_->select();
  return state_->cublasLt;
}

int CudaDevice::multiprocessors() const { return state_->multiprocessors; }

bool CudaDevice::recording() const { return state_->recording; }

const void* CudaDevice::stage(const void* from, int64_t bytes) const {
  CudaDeviceState& state = *state_;
  if (bytes <= 0) return nullptr;
  if (bytes > CudaDeviceState::kStaged)
    throw Error("ERR_INTERNAL", "an array of " + std::to_string(bytes) + " bytes is too large to be staged");
  state.refuseWhileRecording("staging");
  state.select();
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (state.ringUsed + bytes > 2 * CudaDeviceState::kStaged) {
    // What was staged before has been read when the stream is idle: the ring is free from its start.
    checkCuda(cudaStreamSynchronize(state.stream), "waiting for the GPU");
    state.ringUsed = 0;
  }
  char* const host = state.ring + state.ringUsed;
  char* const device = state.deviceRing + state.ringUsed;
  std::copy_n(static_cast<const char*>(from), bytes, host);
  checkCuda(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, state.stream),
            "copying arguments to the GPU");
  state.ringUsed += (bytes + CudaDeviceState::kAlign - 1) / CudaDeviceState::kAlign * CudaDeviceState::kAlign;
  return device;
}

void* CudaDevice::scratch(int64_t bytes) const {
  CudaDeviceState& state = *state_;
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (bytes > state.scratchBytes) {
    state.refuseWhileRecording("scratch memory");
    // At least twice as much: then all that it has replaced is no more than what is in use.
    const int64_t grown = std::max<int64_t>({bytes, 2 * state.scratchBytes, 1 << 20});
    state.scratch.reserve(state.scratch.size() + 1);
    state.scratch.push_back(allocate(grown));
    state.scratchBytes = grown;
  } else {
    state.select();
  }
  return state.scratch.empty() ? nullptr : state.scratch.back();
}

Choices* CudaDevice::choices() const { return state_->choices.get(); }

}  // namespace ddad
