#pragma once
#include "device/device_buffer.h"

namespace ddad {

/// Whether n floats of the device's memory are finite; waits for what was enqueued before. `flag`: one value of
/// scratch.
bool allFinite(const Device& device, const float* x, int64_t n, Mirrored<int32_t>& flag);

}  // namespace ddad
