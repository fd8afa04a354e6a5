#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "device/parallel.h"
#include "train/optimizer_functions.h"

namespace ddad {
namespace {

constexpr int64_t kChunk = 8192;  // values of one piece of work

}  // namespace

AdamWStep adamWStep(const OptimizerSettings& s, double lr, int64_t step) {
  const auto n = static_cast<double>(step);
  const double ema = s.emaWarmup ? std::min(s.ema, (1.0 + n) / (10.0 + n)) : s.ema;
  return {static_cast<float>(1.0 - lr * s.weightDecay),
          static_cast<float>(s.beta1),
          static_cast<float>(s.beta2),
          static_cast<float>(1.0 - s.beta1),
          static_cast<float>(1.0 - s.beta2),
          static_cast<float>(lr / (1.0 - std::pow(s.beta1, n))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, n))),
          static_cast<float>(s.eps),
          static_cast<float>(1.0 - ema)};
}

void updateWeights(const Device& device, float* weights, const float* gradients, float* m, float* v, float* ema,
                   void* half, int64_t n, const AdamWStep& s) {
  if (const OptimizerFunctions* kernels = device.functions().optimizer)
    return kernels->adamwEma(device, weights, gradients, m, v, ema, half, n, s);
  const auto kernel = DDAD_DISPATCH(adamwEma);
  parallelFor(device.threads(), (n + kChunk - 1) / kChunk, [&](int64_t i) {
    const int64_t at = i * kChunk;
    kernel(weights + at, gradients + at, m + at, v + at, ema + at, std::min(kChunk, n - at), s);
  });
}

void squaredNorm(const Device& device, const float* x, int64_t n, double* result) {
  if (const OptimizerFunctions* kernels = device.functions().optimizer)
    return kernels->sumOfSquares(device, x, n, result);
  static thread_local std::vector<double> sums;  // outlives the call: a training step allocates nothing
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  if (sums.size() < static_cast<size_t>(chunks)) sums.resize(static_cast<size_t>(chunks));
  double* const to = sums.data();
  const auto kernel = DDAD_DISPATCH(sumOfSquares);
  parallelFor(device.threads(), chunks,
              [&](int64_t i) { to[i] = kernel(x + i * kChunk, std::min(kChunk, n - i * kChunk)); });
  *result = 0;
  for (int64_t i = 0; i < chunks; ++i) *result += to[i];
}

}  // namespace ddad
