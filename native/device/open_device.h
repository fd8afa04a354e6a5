#pragma once
#include <memory>
#include <string>

#include "device/device.h"

namespace ddad {

/// Opens "cpu", "cuda" or "cuda:N" (an NVIDIA GPU), or "auto" (the first GPU, else the CPU); `threads` 0 means one for
/// each processor that this process may use. No device has more than that, or than the system gives. Throws ERR_OPTION
/// for an unknown name, a negative count or a precision that the device does not have, ERR_DEVICE, saying what is
/// missing, where the device cannot be had.
std::shared_ptr<Device> openDevice(const std::string& name, int threads, Precision precision = Precision::kFloat32);

/// Why "auto" is the CPU here; empty where it is a GPU, and before anybody has asked for "auto".
std::string whyNoGpu();

}  // namespace ddad
