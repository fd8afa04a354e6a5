#pragma once
// What group norm makes of its sums, for one channel, written once for the CPU and CUDA, in double.
//   x' = x + added;  xhat = (x' - mean) rstd;  z = (gamma xhat + beta) factor + shift
#include "base/vecmath.h"

namespace ddad {

/// 1 / sqrt(variance + eps), the variance as a sum of squares about the mean over `count` values; rounding may have
/// made it negative.
DDAD_HD double normRstd(double squares, double count, double eps) {
  const double variance = squares / count;
  return 1.0 / fastSqrt((variance < 0.0 ? 0.0 : variance) + eps);
}

/// z = a x + b, and xhat = rstd x + offset.
struct NormMaps {
  double a, b, offset;
};
DDAD_HD NormMaps normMaps(double mean, double rstd, double added, double gamma, double beta, double factor,
                          double shift) {
  const double offset = (added - mean) * rstd, scale = gamma * factor;
  return {scale * rstd, scale * offset + (beta * factor + shift), offset};
}

/// dL/dx = rstd (g dz - mean1 - xhat mean2) as p dz + q x + r: g = gamma factor, mean1 and mean2 the means over the
/// group of g dz and of g dz xhat.
struct NormGradientMaps {
  double p, q, r;
};
DDAD_HD NormGradientMaps normGradientMaps(double rstd, double offset, double g, double mean1, double mean2) {
  return {rstd * g, -rstd * mean2 * rstd, -rstd * (mean1 + mean2 * offset)};
}

/// The sum of dL/dx over the pixels, which is the gradient of what was added; `total` is the sum of dz, `hat` the mean
/// of xhat over the pixels.
DDAD_HD double normAddedGradient(double rstd, double g, double total, double pixels, double mean1, double mean2,
                                 double hat) {
  return rstd * (g * total - pixels * mean1 - pixels * hat * mean2);
}

}  // namespace ddad
