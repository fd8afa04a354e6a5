#pragma once
// The noise schedule of the forward process and everything that follows from it, in float64.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "noise/diffusion_math.h"

namespace ddad {

/// All arrays have one entry a step of the (respaced) chain; index 0 is the first noise step.
struct Schedule {
  std::vector<double> betas;
  std::vector<double> logBetas;
  std::vector<double> alphasCumprod;
  std::vector<double> alphasCumprodPrev;
  std::vector<double> sqrtRecipAlphasCumprod;       // sqrt(1 / abar)
  std::vector<double> sqrtRecipm1AlphasCumprod;     // sqrt(1 / abar - 1)
  std::vector<double> posteriorVariance;            // of q(x_{t-1} | x_t, x_0)
  std::vector<double> posteriorLogVarianceClipped;  // entry 0 repeats entry 1, since the variance there is 0
  std::vector<double> posteriorMeanCoef1;           // of x_0
  std::vector<double> posteriorMeanCoef2;           // of x_t
  std::vector<int32_t> timestepMap;                 // the step of the original chain, which the network is shown
  int originalSteps = 0;

  int steps() const { return static_cast<int>(betas.size()); }
};

/// The schedule `name` ("linear" or "cosine") over `steps` steps, thinned by `respacing`: absent or empty keeps every
/// step, "250" takes that many evenly, "10,15,20" so many from each third, "ddim50" takes a fixed stride. Kept steps
/// get the beta that leads to their abar from the kept step before. Throws ERR_CONFIG.
Schedule makeSchedule(const std::string& name, int steps, const std::optional<std::string>& respacing);

/// The steps that `respacing` keeps of a chain of `steps`, ascending. Throws ERR_CONFIG.
std::vector<int> spacedTimesteps(int steps, const std::string& respacing);

/// What the per-element formulas need at step `t`; throws ERR_ARGUMENT unless 0 <= t < steps().
StepCoefficients stepCoefficients(const Schedule& schedule, int t);

/// What a DDIM step at `t` needs; `eta` in [0, 1], 0 is deterministic.
DdimCoefficients ddimCoefficients(const Schedule& schedule, int t, double eta);

}  // namespace ddad
