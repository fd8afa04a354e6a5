#include "device/cuda/device_state_cuda.h"

#include <cstdlib>

#include "base/error.h"
#include "device/cuda/probe_cuda.h"

#ifndef DDAD_VERSION
#define DDAD_VERSION "unknown"
#endif
#ifndef DDAD_CUDA_ARCHS
#define DDAD_CUDA_ARCHS "sm_80, sm_86, sm_89, sm_90"
#endif

namespace ddad {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error("ERR_DEVICE", message); }

std::string gpuName(int ordinal) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, ordinal) == cudaSuccess) return properties.name;
  cudaGetLastError();
  return "unknown";
}

std::string gpuList(int count) {
  std::string text = "found " + std::to_string(count);
  for (int i = 0; i < count && i < 16; ++i) text += (i ? ", " : ": ") + std::to_string(i) + " " + gpuName(i);
  return text;
}

/// Of what the GPUs of a machine are hidden by; empty where they are not.
std::string visibleDevicesNote() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible ? std::string(" (CUDA_VISIBLE_DEVICES is \"") + visible + "\")" : std::string();
}

}  // namespace

std::string cudaVersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int cudaGpuCount() {
  int driver = 0;
  // 0 where there is no driver at all
  if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
  if (driver == 0) fail("no NVIDIA driver was found (libcuda.so.1); drivers for CUDA 13.0 (580 and newer) are needed");
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (status == cudaErrorInsufficientDriver)
    fail("the NVIDIA driver is too old: found one for CUDA " + cudaVersionText(driver) + ", needed is one for CUDA " +
         cudaVersionText(CUDART_VERSION / 1000 * 1000) + " or newer");
  if (status == cudaSuccess || status == cudaErrorNoDevice) fail("no NVIDIA GPU was found" + visibleDevicesNote());
  fail(std::string("the NVIDIA driver (for CUDA ") + cudaVersionText(driver) +
       ") gives no GPU: " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")" + visibleDevicesNote());
}

CudaDeviceState::CudaDeviceState(int gpu, const DeviceFunctions& table) : ordinal(gpu), functions(table) {
  try {
    open();
  } catch (...) {
    close();
    throw;
  }
}

CudaDeviceState::~CudaDeviceState() { close(); }

void CudaDeviceState::open() {
  const int count = cudaGpuCount();
  const std::string name = "GPU " + std::to_string(ordinal);
  if (ordinal < 0 || ordinal >= count) fail("there is no " + name + ": " + gpuList(count) + visibleDevicesNote());
  cudaDeviceProp properties;
  checkCuda(cudaGetDeviceProperties(&properties, ordinal), "asking for the GPU's properties");
  const std::string capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
  const std::string called = name + " (" + properties.name + ")";
  select();
  const cudaError_t code = probeKernel();
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction ||
      code == cudaErrorUnsupportedPtxVersion || code == cudaErrorInvalidPtx || properties.major < 8) {
    cudaGetLastError();
    fail(called + " has compute capability " + capability + ", for which this build has no code: it has " +
         DDAD_CUDA_ARCHS + " (8.0 is the least that there can be)");
  }
  checkCuda(code, ("using " + called).c_str());
  multiprocessors = properties.multiProcessorCount;

  checkCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  checkCuda(cudaStreamCreateWithFlags(&uploads, cudaStreamNonBlocking), "making a stream");
  checkCudnn(cudnnCreate(&cudnn), "starting");
  checkCudnn(cudnnSetStream(cudnn, stream), "choosing the stream");
  checkCublas(cublasLtCreate(&cublasLt), "starting");
  checkCuda(cudaHostAlloc(reinterpret_cast<void**>(&ring), static_cast<size_t>(2 * kStaged), cudaHostAllocDefault),
            "allocating page-locked memory");
  checkCuda(cudaMalloc(reinterpret_cast<void**>(&deviceRing), static_cast<size_t>(2 * kStaged)), "allocating memory");

  auto table = std::make_unique<Choices>(
      Choices::defaultPath(), std::string(properties.name) + ", compute capability " + capability + ", cuDNN " +
                                  std::to_string(cudnnGetVersion()) + ", " + DDAD_VERSION);
  if (table->usable()) choices = std::move(table);
}

void CudaDeviceState::close() noexcept {
  if (!stream) return;  // the first thing that open makes
  if (!drain(stream)) return;
  for (void* memory : scratch) cudaFree(memory);
  if (deviceRing) cudaFree(deviceRing);
  if (ring) cudaFreeHost(ring);
  if (cublasLt) cublasLtDestroy(cublasLt);
  if (cudnn) cudnnDestroy(cudnn);
  if (uploads) cudaStreamDestroy(uploads);
  cudaStreamDestroy(stream);
  cudaGetLastError();
}

bool CudaDeviceState::drain(cudaStream_t enqueued) const noexcept {
  return cudaSetDevice(ordinal) != cudaErrorCudartUnloading &&
         cudaStreamSynchronize(enqueued) != cudaErrorCudartUnloading;
}

void CudaDeviceState::refuseWhileRecording(const char* what) const {
  if (recording) throw Error("ERR_INTERNAL", std::string(what) + " was asked for while work is being recorded");
}

}  // namespace ddad
