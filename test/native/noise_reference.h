#pragma once
// The diffusion formulas in double, written as in the paper and guided-diffusion, with no regard to cancellation.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <vector>

#include "base/philox.h"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "random_values.h"

namespace ddad::testing {

/// A batch with all that the functions of noise/noising.h take; t counts in a linear chain of 1000.
struct NoiseCase {
  NoiseCase(int64_t samples, int64_t pixels, int channels, std::vector<int> steps)
      : batch{samples, pixels, channels}, t(std::move(steps)), schedule(makeSchedule("linear", 1000, std::nullopt)) {
    RandomValues random(static_cast<uint32_t>(samples * 1000 + pixels + channels));
    const auto floats = [&](int64_t count, double scale) {
      const std::vector<double> values = random.normal(count, scale);
      return std::vector<float>(values.begin(), values.end());
    };
    x0 = floats(images(), 0.7);
    for (float& x : x0) x = std::clamp(x, -1.0f, 1.0f);  // some at both open ends
    noise = floats(images(), 1.0);
    output = floats(outputs(), 0.4);
    for (int64_t n = 0; n < samples; ++n) {
      k.push_back(stepCoefficients(schedule, t[n]));
      drawn.push_back({nullptr, 42, kStreamTrainingNoise, 7, static_cast<uint32_t>(n)});
      // eps near the noise, as a trained network's.
      for (int64_t p = 0; p < pixels; ++p)
        for (int c = 0; c < channels; ++c)
          output[(n * pixels + p) * 2 * channels + c] += noise[(n * pixels + p) * channels + c];
    }
  }

  int64_t samples() const { return batch.samples; }
  int64_t pixels() const { return batch.pixels; }
  int64_t images() const { return batch.samples * batch.elements(); }
  int64_t outputs() const { return 2 * images(); }
  ImageView x0View() const { return {x0.data(), batch.elements()}; }
  /// Sources that give `noise`.
  std::vector<NoiseSource> sources() const {
    std::vector<NoiseSource> all;
    for (int64_t n = 0; n < samples(); ++n) all.push_back({.values = noise.data() + n * batch.elements()});
    return all;
  }
  std::vector<double> outputOf(int64_t n) const {
    const int64_t size = 2 * batch.elements();
    return {output.begin() + n * size, output.begin() + (n + 1) * size};
  }

  ImageBatch batch;
  std::vector<int> t;
  Schedule schedule;
  std::vector<float> x0, noise, output;
  std::vector<StepCoefficients> k;
  std::vector<NoiseSource> drawn;
};

inline double referenceKlElement(double meanQ, double logVarianceQ, double meanP, double logVarianceP) {
  return 0.5 * (-1.0 + logVarianceP - logVarianceQ + std::exp(logVarianceQ - logVarianceP) +
                (meanQ - meanP) * (meanQ - meanP) * std::exp(-logVarianceP));
}

/// Of x0 under a Gaussian with mean x0 + difference and the variance that v chooses.
inline double referenceDecoderNll(double x0, double difference, double logVarianceQ, double logBeta, double v) {
  const double frac = (v + 1) / 2;
  const double invStd = std::exp(-0.5 * (frac * logBeta + (1 - frac) * logVarianceQ));
  const auto g = [](double u) { return std::sqrt(2 / std::numbers::pi) * (u + 0.044715 * u * u * u); };
  const double upper = g(invStd * (-difference + 1.0 / 255)), lower = g(invStd * (-difference - 1.0 / 255));
  // (1 + tanh g) / 2 and its complement, taken on the side where the difference of the two ends keeps its digits.
  const auto below = [](double end) { return 1 / (1 + std::exp(-2 * end)); };
  double probability = upper < 0 ? below(upper) - below(lower) : below(-lower) - below(-upper);
  if (x0 < -0.999)
    probability = below(upper);
  else if (x0 > 0.999)
    probability = below(-lower);
  return -std::log(std::max(probability, 1e-12));
}

struct ReferenceLoss {
  double mse, vb;
};

/// Of sample n; `frozen` gives the eps that the variational term sees.
inline ReferenceLoss referenceLoss(const NoiseCase& c, int64_t n, const std::vector<double>& output,
                                   const std::vector<double>& frozen) {
  const Schedule& s = c.schedule;
  const int t = c.t[n], channels = c.batch.channels;
  const double abar = s.alphasCumprod[t];
  ReferenceLoss loss{0.0, 0.0};
  for (int64_t p = 0; p < c.pixels(); ++p)
    for (int i = 0; i < channels; ++i) {
      const int64_t at = n * c.batch.elements() + p * channels + i;
      const double x0 = c.x0[at], noise = c.noise[at];
      const double eps = output[p * 2 * channels + i], v = output[p * 2 * channels + channels + i];
      loss.mse += (noise - eps) * (noise - eps);
      const double xt = std::sqrt(abar) * x0 + std::sqrt(1 - abar) * noise;
      const double xstart = std::sqrt(1 / abar) * xt - std::sqrt(1 / abar - 1) * frozen[p * 2 * channels + i];
      if (t == 0) {
        loss.vb += referenceDecoderNll(x0, xstart - x0, s.posteriorLogVarianceClipped[0], s.logBetas[0], v);
      } else {
        const double meanQ = s.posteriorMeanCoef1[t] * x0 + s.posteriorMeanCoef2[t] * xt;
        const double meanP = s.posteriorMeanCoef1[t] * xstart + s.posteriorMeanCoef2[t] * xt;
        const double frac = (v + 1) / 2, logVarianceQ = s.posteriorLogVarianceClipped[t];
        loss.vb += referenceKlElement(meanQ, logVarianceQ, meanP, frac * s.logBetas[t] + (1 - frac) * logVarianceQ);
      }
    }
  const double elements = static_cast<double>(c.batch.elements());
  return {loss.mse / elements, loss.vb / elements / std::numbers::ln2};
}

/// A pixel measure of sample n by element, xhat0 clamped.
inline std::vector<double> referencePixels(PixelMeasure measure, const NoiseCase& c, int64_t n) {
  const Schedule& s = c.schedule;
  const int t = c.t[n], channels = c.batch.channels;
  const double abar = s.alphasCumprod[t];
  std::vector<double> values;
  for (int64_t p = 0; p < c.pixels(); ++p)
    for (int i = 0; i < channels; ++i) {
      const int64_t at = n * c.batch.elements() + p * channels + i;
      const int64_t out = n * 2 * c.batch.elements() + p * 2 * channels + i;
      const double x0 = c.x0[at], v = c.output[out + channels], frac = (v + 1) / 2;
      const double xt = std::sqrt(abar) * x0 + std::sqrt(1 - abar) * c.noise[at];
      const double xstart = std::clamp(std::sqrt(1 / abar) * xt - std::sqrt(1 / abar - 1) * c.output[out], -1.0, 1.0);
      if (measure == PixelMeasure::kReconstruction) {
        values.push_back((x0 - xstart) * (x0 - xstart));
        continue;
      }
      const double logVarianceQ = s.posteriorLogVarianceClipped[t];
      values.push_back(referenceKlElement(s.posteriorMeanCoef1[t] * x0 + s.posteriorMeanCoef2[t] * xt, logVarianceQ,
                                          s.posteriorMeanCoef1[t] * xstart + s.posteriorMeanCoef2[t] * xt,
                                          frac * s.logBetas[t] + (1 - frac) * logVarianceQ));
    }
  return values;
}

}  // namespace ddad::testing
