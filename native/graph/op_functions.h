#pragma once
#include "graph/op.h"

namespace ddad {

/// What a device with ops of its own offers of this layer; pointers are the device's.
struct OpFunctions {
  std::unique_ptr<Op> (*compile)(OpContext context);
  /// Rounds n floats to bf16.
  void (*toHalf)(const Device&, const float* from, int64_t n, void* to);
  /// Sets *result to 1 where one of n floats is not finite; leaves it else.
  void (*findNonFinite)(const Device&, const float* x, int64_t n, int32_t* result);
};

}  // namespace ddad
