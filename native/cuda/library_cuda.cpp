// The way into libddad_cuda.so: see device/cuda_abi.h.
#include "backbone/feature_functions_cuda.h"
#include "device/cuda/device_cuda.h"
#include "device/cuda/device_state_cuda.h"
#include "device/cuda_abi.h"
#include "nlohmann/json.hpp"
#include "noise/noise_functions_cuda.h"
#include "ops/cuda_ops_cuda.h"
#include "train/optimizer_functions_cuda.h"

namespace ddad {
namespace {

using nlohmann::json;

DeviceFunctions functions() {
  return {.ops = &cudaOps(),
          .noise = &cudaNoiseFunctions(),
          .features = &cudaFeatureFunctions(),
          .optimizer = &cudaOptimizerFunctions()};
}

/// "9.19.0" of 91900.
std::string versionText(size_t version, size_t major, size_t minor) {
  return std::to_string(version / major) + "." + std::to_string(version % major / minor) + "." +
         std::to_string(version % minor);
}

json describeGpu(int ordinal) {
  cudaDeviceProp properties;
  checkCuda(cudaGetDeviceProperties(&properties, ordinal), "asking for the GPU's properties");
  // How much is free is known to the GPU's context only, which may be refused.
  size_t free = 0, total = 0;
  const bool known = cudaSetDevice(ordinal) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess;
  if (!known) cudaGetLastError();
  return {{"name", properties.name},
          {"computeCapability", std::to_string(properties.major) + "." + std::to_string(properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"memory", {{"total", properties.totalGlobalMem}, {"free", known ? json(free) : json(nullptr)}}}};
}

json describe() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
  json description = {{"driver", driver ? json(cudaVersionText(driver)) : json(nullptr)},
                      {"runtime", cudaVersionText(CUDART_VERSION)},
                      {"cudnn", versionText(cudnnGetVersion(), 10000, 100)},
                      {"cublas", versionText(cublasLtGetVersion(), 10000, 100)},
                      {"gpus", json::array()},
                      {"reason", nullptr}};
  try {
    const int count = cudaGpuCount();
    for (int i = 0; i < count; ++i) description["gpus"].push_back(describeGpu(i));
  } catch (const Error& error) {
    description["reason"] = error.what();
  }
  return description;
}

}  // namespace
}  // namespace ddad

#define DDAD_EXPORT __attribute__((visibility("default")))

extern "C" {

DDAD_EXPORT const char* ddadCudaBuildId() { return ddad::kCudaBuildId; }

DDAD_EXPORT ddad::Device* ddadOpenCuda(int ordinal, int threads, ddad::Precision precision) {
  return new ddad::CudaDevice(ordinal, threads, precision, ddad::functions());
}

DDAD_EXPORT void ddadDescribeCuda(std::string& json) {
  json = ddad::describe().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // extern "C"
