#pragma once
#include <cstdint>

#include "device/device.h"
#include "device/dispatch.h"
#include "train/optimizer_step.h"

namespace ddad {

/// AdamW and the moving average of the weights; defaults as published.
struct OptimizerSettings {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weightDecay = 0.01, ema = 0.997;
  // The average follows faster at first, min(ema, (1 + step) / (10 + step)): after 300 steps at a constant 0.997 the
  // random initial weights would still make up 41 % of it.
  bool emaWarmup = true;
};

/// Of step `step`, which counts from 1.
AdamWStep adamWStep(const OptimizerSettings& settings, double lr, int64_t step);

/// One pass over n values in the device's memory: weights, both moments and the moving average; `half`, where it is not
/// null, gets the new weights rounded to bf16.
void updateWeights(const Device& device, float* weights, const float* gradients, float* m, float* v, float* ema,
                   void* half, int64_t n, const AdamWStep& s);
/// The sum of squares of n values to *result, both in the device's memory.
void squaredNorm(const Device& device, const float* x, int64_t n, double* result);

/// The two of a processor, a chunk each.
DDAD_DECLARE_SIMD(void, adamwEma,
                  (float* weights, const float* gradients, float* m, float* v, float* ema, int64_t n,
                   const AdamWStep& s))
/// Sum of squares within a chunk of a few thousand values.
DDAD_DECLARE_SIMD(double, sumOfSquares, (const float* x, int64_t n))

}  // namespace ddad
