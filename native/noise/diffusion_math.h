#pragma once
// The formulas of the diffusion process for one element, written once for the CPU and CUDA.
//
// Differences of nearly equal numbers are formed analytically instead of in floating point. With
// x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps the prediction is xhat0 = x_0 + sqrt(1/abar - 1) (eps - eps_theta), the
// posterior means differ by coef1 (x_0 - xhat0), and the log variances by -frac (log beta - log var_q).
#include "base/host_device.h"
#include "base/vecmath.h"

namespace ddad {

/// One step's coefficients, computed in double from a Schedule and rounded once.
struct StepCoefficients {
  float sqrtAlphasCumprod;          // sqrt(abar_t)
  float sqrtOneMinusAlphasCumprod;  // sqrt(1 - abar_t)
  float sqrtRecip;                  // sqrt(1 / abar_t)
  float sqrtRecipm1;                // sqrt(1 / abar_t - 1)
  float posteriorMeanCoef1;         // of x_0
  float posteriorMeanCoef2;         // of x_t
  float posteriorLogVariance;       // log var_q, clipped
  float logVarianceRange;           // log beta_t - log var_q: what v spans from -1 to 1
  float posteriorStd;               // exp(log var_q / 2)
  float posteriorInvStd;            // exp(-log var_q / 2)
  float klWeight;                   // coef1^2 / var_q: what (x_0 - xhat0)^2 weighs in the KL
  float logOneMinusAlphasCumprod;   // log(1 - abar_t), the log variance of q(x_t | x_0)
  int first;                        // 1 at step 0, where the decoder's likelihood takes the place of the KL
};

/// Of a DDIM step, beside the StepCoefficients.
struct DdimCoefficients {
  float sqrtAlphasCumprodPrev;
  float direction;  // sqrt(1 - abar_{t-1} - sigma^2)
  float sigma;      // 0 at step 0
};

/// Equation (1): x_t.
DDAD_HD float qSample(const StepCoefficients& k, float x0, float noise) {
  return k.sqrtAlphasCumprod * x0 + k.sqrtOneMinusAlphasCumprod * noise;
}

/// Mean of q(x_{t-1} | x_t, x_0).
DDAD_HD float posteriorMean(const StepCoefficients& k, float x0, float xt) {
  return k.posteriorMeanCoef1 * x0 + k.posteriorMeanCoef2 * xt;
}

/// xhat0 from x_t and eps_theta, not clamped.
DDAD_HD float predictXStart(const StepCoefficients& k, float xt, float eps) {
  return k.sqrtRecip * xt - k.sqrtRecipm1 * eps;
}

/// xhat0 - x_0, not clamped, where the noise in x_t is known.
DDAD_HD float xStartError(const StepCoefficients& k, float noise, float eps) { return k.sqrtRecipm1 * (noise - eps); }

/// To [-1, 1]; NaN stays.
DDAD_HD float clampUnit(float x) {
  const float low = x < -1.0f ? -1.0f : x;
  return low > 1.0f ? 1.0f : low;
}

/// xhat0 - x_0 with xhat0 clamped to [-1, 1]: the error itself held between -1 - x_0 and 1 - x_0, so that adding and
/// subtracting x_0 costs no digits.
DDAD_HD float clampedXStartError(const StepCoefficients& k, float x0, float noise, float eps) {
  const float error = xStartError(k, noise, eps);
  const float low = error < -1.0f - x0 ? -1.0f - x0 : error;
  return low > 1.0f - x0 ? 1.0f - x0 : low;
}

/// log var_q - log var_theta of the variance output v (learned range).
DDAD_HD float logVarianceGap(const StepCoefficients& k, float v) { return (v + 1.0f) * (-0.5f * k.logVarianceRange); }

/// log var_theta.
DDAD_HD float modelLogVariance(const StepCoefficients& k, float v) {
  return k.posteriorLogVariance - logVarianceGap(k, v);
}

/// KL(q(x_{t-1} | x_t, x_0) || p_theta) in nats; `difference` = xhat0 - x_0 (either sign).
DDAD_HD float klNats(const StepCoefficients& k, float difference, float v) {
  const float gap = logVarianceGap(k, v);
  return 0.5f * (expMinusOneMinus(gap) + k.klWeight * difference * difference * fastExp(gap));
}

/// The same with its derivative by v; `difference` is a constant.
DDAD_HD float klNatsGradient(const StepCoefficients& k, float difference, float v, float* dv) {
  const float gap = logVarianceGap(k, v);
  const float remainder = expMinusOneMinus(gap);
  const float meanTerm = k.klWeight * difference * difference * fastExp(gap);
  *dv = (remainder + gap + meanTerm) * (-0.25f * k.logVarianceRange);
  return 0.5f * (remainder + meanTerm);
}

/// KL(q(x_T | x_0) || N(0, 1)) in nats, equation (8); `k` of the last step.
DDAD_HD float priorKlNats(const StepCoefficients& k, float x0) {
  const float mean = k.sqrtAlphasCumprod * x0;
  return 0.5f * (expMinusOneMinus(k.logOneMinusAlphasCumprod) + mean * mean);
}

/// Negative log-likelihood in nats of x_0 under the model's Gaussian at step 0, discretised to 255 levels (half-width
/// 1/255, open ends beyond +-0.999, probabilities floored at 1e-12), and its derivative by v; `difference` is the
/// mean minus x_0.
///
/// As in the public code the cumulative distribution is (1 + tanh g(u)) / 2, g(u) = sqrt(2/pi) (u + 0.044715 u^3),
/// which is sigmoid(2 g(u)). A bin's probability sigmoid(a) - sigmoid(b) is taken as
/// sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which does not cancel in the tails.
DDAD_HD float decoderNllGradient(const StepCoefficients& k, float x0, float difference, float v, float* dv) {
  const float twiceC = 1.5957691216057308f, cubic = 0.044715f, bin = 1.0f / 255.0f, floorNats = 27.6310211f;
  const float invStd = k.posteriorInvStd * fastExp(0.5f * logVarianceGap(k, v));
  // Beyond 9 standard deviations both ends are saturated; the bounds keep every exponential finite.
  float upper = invStd * (bin - difference);
  upper = upper > 9.0f ? 9.0f : upper;
  upper = upper < -9.0f ? -9.0f : upper;
  float lower = invStd * (-bin - difference);
  lower = lower > 9.0f ? 9.0f : lower;
  lower = lower < -9.0f ? -9.0f : lower;
  float width = invStd * (2.0f * bin);
  width = width > 18.0f ? 18.0f : width;

  const float squares = upper * upper + upper * lower + lower * lower;
  const float a = twiceC * upper * (1.0f + cubic * upper * upper);
  const float b = twiceC * lower * (1.0f + cubic * lower * lower);
  const float aMinusB = twiceC * width * (1.0f + cubic * squares);
  const float aboveUpper = fastExp(-a), belowLower = fastExp(b);  // odds of falling outside, at either end
  const float insideUpper = 1.0f / (1.0f + aboveUpper), insideLower = 1.0f / (1.0f + belowLower);
  float grown = fastExpm1(aMinusB);
  grown = grown > 1e30f ? 1e30f : grown;
  const float probability = insideUpper * insideLower * (grown / (1.0f + grown));

  // d log p / d log std, from each factor.
  const float fromUpper = -twiceC * upper * (1.0f + 3.0f * cubic * upper * upper) * (aboveUpper * insideUpper);
  const float fromLower = twiceC * lower * (1.0f + 3.0f * cubic * lower * lower) * (belowLower * insideLower);
  const float fromWidth = -twiceC * width * (1.0f + 3.0f * cubic * squares) / grown;

  const bool lowEnd = x0 < -0.999f, highEnd = x0 > 0.999f;
  const float floored = probability < 1e-12f ? 1e-12f : probability;
  const float endNats = fastLog1p(lowEnd ? aboveUpper : belowLower);
  float nats = -fastLog(floored);
  nats = (lowEnd | highEnd) ? endNats : nats;
  float slope = fromUpper + fromLower + fromWidth;
  slope = highEnd ? fromLower : slope;
  slope = lowEnd ? fromUpper : slope;
  // At the floor the probability is a constant.
  const bool atFloor = nats >= floorNats;
  nats = atFloor ? floorNats : nats;
  slope = atFloor ? 0.0f : slope;
  // log std = log var / 2 and d log var / dv = range / 2.
  *dv = slope * (-0.25f * k.logVarianceRange);
  return nats;
}

/// One step of the reverse process, equation (2): x_{t-1} of the mean at (xstart, x_t), v and z ~ N(0, 1).
DDAD_HD float ddpmStep(const StepCoefficients& k, float xstart, float xt, float v, float z) {
  const float std = k.first ? 0.0f : k.posteriorStd * fastExp(-0.5f * logVarianceGap(k, v));
  return posteriorMean(k, xstart, xt) + std * z;
}

/// One step of DDIM; eps is derived again from the (clamped) xstart.
DDAD_HD float ddimStep(const StepCoefficients& k, const DdimCoefficients& d, float xstart, float xt, float z) {
  const float eps = (k.sqrtRecip * xt - xstart) / k.sqrtRecipm1;
  return d.sqrtAlphasCumprodPrev * xstart + d.direction * eps + d.sigma * z;
}

/// One step down the gradient of a distance (Algorithm 1): `keep` = sqrt(1 - s^2), `scale` = s / std(g).
DDAD_HD float gradientStep(float keep, float scale, float x, float g) { return keep * x - scale * g; }

/// Standard deviation with n - 1; 0 for one value. NaN stays.
DDAD_HD double deviationOf(double sum, double squares, double count) {
  if (count < 2.0) return 0.0;
  const double variance = (squares - sum * sum / count) / (count - 1.0);
  return variance < 0.0 ? 0.0 : fastSqrt(variance);
}

}  // namespace ddad
