#pragma once
// The CUDA device lives in a library of its own, libddad_cuda.so, which is loaded when it is asked for: nobody without
// a GPU needs what it needs. It is looked for beside the module that holds the engine; DDAD_CUDA_LIBRARY names another.
#include <memory>

#include "device/device.h"
#include "nlohmann/json.hpp"

namespace ddad {

/// Opens a GPU. Throws ERR_DEVICE, saying what is missing and what was found: the library, one that it needs, the
/// driver or the GPU; ERR_MEMORY where the GPU has too little left to start. Any thread may call it.
std::shared_ptr<Device> openCudaDevice(int ordinal, int threads, Precision precision);

/// For people: {"library":path,"driver","runtime","cudnn","cublas","gpus":[{"name","computeCapability",
/// "multiprocessors","memory":{"total","free"}}],"reason"}. The reason says why no GPU can be had, and is null where
/// one can; without the library there is nothing but the reason.
nlohmann::json describeCuda();

}  // namespace ddad
