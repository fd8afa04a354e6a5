#pragma once
// What a device with kernels of its own offers of train/optimizer.h; every pointer is the device's.
#include <cstdint>

#include "device/device.h"
#include "train/optimizer_step.h"

namespace ddad {

struct OptimizerFunctions {
  /// The sum of squares of x to *result, the same in every run.
  void (*sumOfSquares)(const Device&, const float* x, int64_t n, double* result);
  /// One pass over n values; `half` (bf16, [n]) gets the new weights rounded, where it is not null.
  void (*adamwEma)(const Device&, float* weights, const float* gradients, float* m, float* v, float* ema, void* half,
                   int64_t n, const AdamWStep& s);
};

}  // namespace ddad
