#pragma once
#include "graph/device_ops.h"

namespace ddad {

/// The ops of the GPU.
const DeviceOps& cudaOps();

}  // namespace ddad
