#pragma once
// Bodies of the pixel-level score, of the maps that golden files hold, and of the reverse step; see noise/noising.h.
#include <cstdint>

#include "noise/noise_grid.h"

namespace ddad {

/// The measure of each pixel of each sample, [samples, pixels], and partial [samples, blocks, 4]: sum and squares of
/// the means over channels, sum and squares of the elements. Grid [pixels, samples].
struct ScorePixels {
  static constexpr int kThreads = BlockSums<4>::kThreads, kPhases = 2;
  using Shared = BlockSums<4>;
  QuadBatch batch;
  ImageView x0;
  const float* modelOutput;
  const StepCoefficients* k;
  const NoiseSource* noise;
  bool kl;
  float* values;
  double* partial;

  DDAD_HD_MEMBER int64_t blocks() const { return blocksOf(batch.pixels, kThreads); }
  GridIndex extent() const { return {static_cast<int>(blocks()), static_cast<int>(batch.samples)}; }

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 1) {
      shared.add(block, thread, blocks(), partial);
    } else {
      const int64_t pixel = static_cast<int64_t>(block.x) * kThreads + thread;
      float mean = 0.0f;
      double sum = 0.0, squares = 0.0;
      if (pixel < batch.pixels) {
        const StepCoefficients step = k[block.y];
        const float* const image = x0.data + block.y * x0.sampleStride;
        float eps[kQuad];
        int64_t known = -1;  // the quad that eps is of
        for (int c = 0; c < batch.channels; ++c) {
          const int64_t element = pixel * batch.channels + c, quad = element / kQuad;
          if (quad != known) quadNoise(noise[block.y], quad * kQuad, batch.count(quad * kQuad), eps);
          known = quad;
          const int64_t at = batch.output(block.y, element);
          const int lane = static_cast<int>(element % kQuad);
          const float laneEps = lane == 0 ? eps[0] : lane == 1 ? eps[1] : lane == 2 ? eps[2] : eps[3];
          const float error = clampedXStartError(step, image[element], laneEps, modelOutput[at]);
          const float measured = kl ? klNats(step, error, modelOutput[at + batch.channels]) : error * error;
          mean += measured;
          sum += static_cast<double>(measured);
          squares += static_cast<double>(measured) * static_cast<double>(measured);
        }
        mean /= static_cast<float>(batch.channels);
        values[block.y * batch.pixels + pixel] = mean;
      }
      shared.sums[0][thread] = static_cast<double>(mean);
      shared.sums[1][thread] = static_cast<double>(mean) * static_cast<double>(mean);
      shared.sums[2][thread] = sum;
      shared.sums[3][thread] = squares;
    }
  }
};

/// A sample a thread.
struct ScoreStatistics {
  const double* partial;
  int64_t samples, blocks;
  double pixels, elements;
  PixelStatistics* statistics;

  DDAD_HD_MEMBER int64_t items() const { return samples; }
  DDAD_HD_MEMBER void item(int64_t n) const {
    double sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = sumOfBlocks<4>(partial, n, blocks, i);
    statistics[n] = {sums[0] / pixels, deviationOf(sums[0], sums[1], pixels), sums[2] / elements,
                     deviationOf(sums[2], sums[3], elements)};
  }
};

/// map = the sum over samples of terms[n].scale * values[n] + terms[n].offset: a pixel a thread.
struct ScoreMap {
  const float* values;
  const EnsembleTerm* terms;
  int64_t samples, pixels;
  float* map;

  DDAD_HD_MEMBER int64_t items() const { return pixels; }
  DDAD_HD_MEMBER void item(int64_t pixel) const {
    float sum = 0.0f;
    for (int64_t n = 0; n < samples; ++n) sum += terms[n].scale * values[n * pixels + pixel] + terms[n].offset;
    map[pixel] = sum;
  }
};

struct VariationalElements {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  QuadBatch batch;
  ImageView x0;
  const float* modelOutput;
  const StepCoefficients* k;
  const NoiseSource* noise;
  bool clip, decoder;
  float* nats;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t first = batch.first(block, thread, kThreads);
    const int count = batch.count(first);
    if (count == 0) return;
    const StepCoefficients step = k[block.y];
    float x[kQuad], eps[kQuad];
    batch.load(x0.data + block.y * x0.sampleStride + first, count, x);
    quadNoise(noise[block.y], first, count, eps);
    DDAD_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (i >= count) continue;
      const int64_t at = batch.output(block.y, first + i);
      const float error =
          clip ? clampedXStartError(step, x[i], eps[i], modelOutput[at]) : xStartError(step, eps[i], modelOutput[at]);
      const float v = modelOutput[at + batch.channels];
      float dv;
      nats[block.y * batch.elements() + first + i] =
          decoder ? decoderNllGradient(step, x[i], error, v, &dv) : klNats(step, error, v);
    }
  }
};

/// partial [samples, blocks, 1]: nats of equation (8).
struct PriorElements {
  static constexpr int kThreads = BlockSums<1>::kThreads, kPhases = 2;
  using Shared = BlockSums<1>;
  QuadBatch batch;
  ImageView x0;
  StepCoefficients last;
  double* partial;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 1) {
      shared.add(block, thread, batch.blocks(kThreads), partial);
    } else {
      const int64_t first = batch.first(block, thread, kThreads);
      const int count = batch.count(first);
      double sum = 0.0;
      for (int i = 0; i < count; ++i)
        sum += static_cast<double>(priorKlNats(last, x0.data[block.y * x0.sampleStride + first + i]));
      shared.sums[0][thread] = sum;
    }
  }
};

struct PriorTotals {
  const double* partial;
  int64_t samples, blocks;
  double scale;
  double* bits;

  DDAD_HD_MEMBER int64_t items() const { return samples; }
  DDAD_HD_MEMBER void item(int64_t n) const { bits[n] = sumOfBlocks<1>(partial, n, blocks, 0) * scale; }
};

/// Equations (2)-(3), DDIM where there is a `ddim`; `next` may be `xt`.
struct ReverseElements {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  QuadBatch batch;
  const float *xt, *modelOutput;
  const StepCoefficients* k;
  const DdimCoefficients* ddim;
  const NoiseSource* z;  // may be null
  bool clip;
  ReverseOutputs outputs;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t first = batch.first(block, thread, kThreads), base = block.y * batch.elements() + first;
    const int count = batch.count(first);
    if (count == 0) return;
    const StepCoefficients step = k[block.y];
    float noise[kQuad] = {};
    if (z != nullptr && outputs.next != nullptr) quadNoise(z[block.y], first, count, noise);
    DDAD_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (i >= count) continue;
      const int64_t at = batch.output(block.y, first + i);
      const float x = xt[base + i], v = modelOutput[at + batch.channels];
      const float predicted = predictXStart(step, x, modelOutput[at]);
      const float start = clip ? clampUnit(predicted) : predicted;
      if (outputs.xstart != nullptr) outputs.xstart[base + i] = start;
      if (outputs.mean != nullptr) outputs.mean[base + i] = posteriorMean(step, start, x);
      if (outputs.logVariance != nullptr) outputs.logVariance[base + i] = modelLogVariance(step, v);
      if (outputs.next != nullptr)
        outputs.next[base + i] =
            ddim != nullptr ? ddimStep(step, ddim[block.y], start, x, noise[i]) : ddpmStep(step, start, x, v, noise[i]);
    }
  }
};

/// partial [blocks, 2]: sum and squares of a gradient.
struct GradientMoments {
  static constexpr int kThreads = BlockSums<2>::kThreads, kPhases = 2;
  using Shared = BlockSums<2>;
  const float* gradient;
  int64_t elements;
  double* partial;

  DDAD_HD_MEMBER int64_t blocks() const { return blocksOf(elements, int64_t{kThreads} * kQuad); }
  GridIndex extent() const { return {static_cast<int>(blocks()), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 1) {
      shared.add(block, thread, blocks(), partial);
    } else {
      const int64_t first = (static_cast<int64_t>(block.x) * kThreads + thread) * kQuad;
      double sum = 0.0, squares = 0.0;
      for (int64_t i = first; i < first + kQuad && i < elements; ++i) {
        const auto g = static_cast<double>(gradient[i]);
        sum += g;
        squares += g * g;
      }
      shared.sums[0][thread] = sum;
      shared.sums[1][thread] = squares;
    }
  }
};

/// to: keep, scale and whether there is a direction at all, of gradientStep.
struct DescendFactors {
  const double* partial;
  int64_t blocks;
  double elements, stepSize;
  float* to;

  DDAD_HD_MEMBER int64_t items() const { return 1; }
  DDAD_HD_MEMBER void item(int64_t) const {
    const double std =
        deviationOf(sumOfBlocks<2>(partial, 0, blocks, 0), sumOfBlocks<2>(partial, 0, blocks, 1), elements);
    to[0] = static_cast<float>(sqrt(1.0 - stepSize * stepSize));
    to[1] = static_cast<float>(stepSize / std);
    to[2] = std == 0.0 ? 0.0f : 1.0f;  // NaN is a direction: it must not go unseen
  }
};

struct DescendElements {
  const float *factors, *gradient;
  int64_t elements;
  float* x;

  DDAD_HD_MEMBER int64_t items() const { return elements; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    if (factors[2] != 0.0f) x[i] = gradientStep(factors[0], factors[1], x[i], gradient[i]);
  }
};

}  // namespace ddad
