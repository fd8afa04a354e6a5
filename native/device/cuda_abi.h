#pragma once
// What libddad_cuda.so, the CUDA device, offers to the engine. Both pass C++ objects to each other, so they must come
// from one build: DDAD_CUDA_ABI, which CMake sets for both, is made of the headers that they have in common.
#include <string>

#include "device/device.h"

#ifndef DDAD_CUDA_ABI
#define DDAD_CUDA_ABI "unknown"
#endif

namespace ddad {

constexpr const char* kCudaLibrary = "libddad_cuda.so";
constexpr const char* kCudaBuildId = DDAD_CUDA_ABI;

/// ddadCudaBuildId: the library's kCudaBuildId.
using CudaBuildIdFunction = const char*();
/// ddadOpenCuda: a new device, the caller's. Throws what the constructor of CudaDevice does.
using OpenCudaFunction = Device*(int ordinal, int threads, Precision precision);
/// ddadDescribeCuda: JSON of
/// {"driver","runtime","cudnn","cublas","gpus":[{"name","computeCapability","multiprocessors",
/// "memory":{"total","free"}}],"reason"}; the reason says why there is no GPU, and is null where there is one.
using DescribeCudaFunction = void(std::string& json);

}  // namespace ddad
