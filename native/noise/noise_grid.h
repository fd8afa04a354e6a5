#pragma once
// Bodies of the diffusion process's kernels; see noise/noising.h. A thread takes four elements of a sample, which is
// what a block of Philox gives it; grids are [quads, samples].
#include <cmath>
#include <cstdint>

#include "base/bf16.h"
#include "base/philox.h"
#include "device/grid.h"
#include "noise/diffusion_math.h"
#include "noise/noise_types.h"

namespace ddad {

constexpr int kQuad = 4;

/// The noise of `count` elements from `first` on, a multiple of four.
DDAD_HD void quadNoise(const NoiseSource& source, int64_t first, int count, float to[kQuad]) {
  if (source.values == nullptr)
    return philoxNormal4(source.seed, source.stream, source.step, source.sample, static_cast<uint32_t>(first / kQuad),
                         to);
  DDAD_UNROLL
  for (int i = 0; i < kQuad; ++i) to[i] = i < count ? source.values[first + i] : 0.0f;
}

/// A batch, and which elements a thread has.
struct QuadBatch {
  int64_t samples, pixels;
  int channels;
  bool aligned;  // all arrays to 16 bytes in every sample

  DDAD_HD_MEMBER int64_t elements() const { return pixels * channels; }
  /// Blocks of a sample.
  DDAD_HD_MEMBER int64_t blocks(int threads) const { return blocksOf(elements(), int64_t{threads} * kQuad); }
  GridIndex extent(int threads) const { return {static_cast<int>(blocks(threads)), static_cast<int>(samples)}; }
  DDAD_HD_MEMBER int64_t first(GridIndex block, int thread, int threads) const {
    return (static_cast<int64_t>(block.x) * threads + thread) * kQuad;
  }
  DDAD_HD_MEMBER int count(int64_t first) const {
    const int64_t left = elements() - first;
    return left <= 0 ? 0 : left < kQuad ? static_cast<int>(left) : kQuad;
  }
  /// Where eps of an element lies in the network's output; v lies `channels` further.
  DDAD_HD_MEMBER int64_t output(int64_t sample, int64_t element) const {
    const int64_t pixel = element / channels;
    return 2 * sample * elements() + pixel * 2 * channels + (element - pixel * channels);
  }
  DDAD_HD_MEMBER void load(const float* from, int count, float to[kQuad]) const {
    if (aligned) {
      const Pack<float> pack = loadPack(from);
      DDAD_UNROLL
      for (int i = 0; i < kQuad; ++i) to[i] = pack.v[i];
      return;
    }
    DDAD_UNROLL
    for (int i = 0; i < kQuad; ++i) to[i] = i < count ? from[i] : 0.0f;
  }
  /// To the sample's elements from `first` on. Counted in packs: nvcc makes four stores of one where it is reached by
  /// an element's index behind a product.
  DDAD_HD_MEMBER void store(const float from[kQuad], int count, float* sample, int64_t first) const {
    if (aligned) {
      Pack<float> pack;
      DDAD_UNROLL
      for (int i = 0; i < kQuad; ++i) pack.v[i] = from[i];
      reinterpret_cast<Pack<float>*>(sample)[first / kQuad] = pack;
      return;
    }
    DDAD_UNROLL
    for (int i = 0; i < kQuad; ++i)
      if (i < count) sample[first + i] = from[i];
  }
};

/// Sums of up to four measures of a block's threads, to partial[sample, block, measure].
template <int kMeasures>
struct BlockSums {
  static constexpr int kThreads = 256;
  double sums[kMeasures][kThreads];

  DDAD_HD_MEMBER void add(GridIndex block, int thread, int64_t blocks, double* partial) const {
    if (thread >= kMeasures) return;
    double sum = 0.0;
    for (int i = 0; i < kThreads; ++i) sum += sums[thread][i];
    partial[(block.y * blocks + block.x) * kMeasures + thread] = sum;
  }
};

/// The sum of a sample's measure over its blocks.
template <int kMeasures>
DDAD_HD double sumOfBlocks(const double* partial, int64_t sample, int64_t blocks, int measure) {
  double sum = 0.0;
  for (int64_t i = 0; i < blocks; ++i) sum += partial[(sample * blocks + i) * kMeasures + measure];
  return sum;
}

struct FillNormal {
  NoiseSource source;
  int64_t count;
  float* out;

  DDAD_HD_MEMBER int64_t items() const { return blocksOf(count, kQuad); }
  DDAD_HD_MEMBER void item(int64_t quad) const {
    const int64_t first = quad * kQuad;
    const int here = count - first < kQuad ? static_cast<int>(count - first) : kQuad;
    float values[kQuad];
    quadNoise(source, first, here, values);
    DDAD_UNROLL
    for (int i = 0; i < kQuad; ++i)
      if (i < here) out[first + i] = values[i];
  }
};

/// Equation (1).
struct NoiseImages {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  QuadBatch batch;
  ImageView x0;
  const StepCoefficients* k;
  const NoiseSource* noise;
  float* xt;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t first = batch.first(block, thread, kThreads);
    const int count = batch.count(first);
    if (count == 0) return;
    float x[kQuad], eps[kQuad];
    batch.load(x0.data + block.y * x0.sampleStride + first, count, x);
    quadNoise(noise[block.y], first, count, eps);
    const StepCoefficients step = k[block.y];
    DDAD_UNROLL
    for (int i = 0; i < kQuad; ++i) x[i] = qSample(step, x[i], eps[i]);
    batch.store(x, count, xt + block.y * batch.elements(), first);
  }
};

/// Equations (4)-(7) and their gradient; partial [samples, blocks, 2]: squared errors, nats.
struct LossElements {
  static constexpr int kThreads = BlockSums<2>::kThreads, kPhases = 2;
  using Shared = BlockSums<2>;
  QuadBatch batch;
  ImageView x0;
  const float* modelOutput;
  const StepCoefficients* k;
  const NoiseSource* noise;
  float mseScale, vbScale;
  float* gradient;  // may be null
  double* partial;

  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    if constexpr (kPhase == 1) {
      shared.add(block, thread, batch.blocks(kThreads), partial);
    } else {
      const int64_t first = batch.first(block, thread, kThreads);
      const int count = batch.count(first);
      double squares = 0.0, nats = 0.0;
      if (count > 0) {
        const StepCoefficients step = k[block.y];
        float x[kQuad], eps[kQuad];
        batch.load(x0.data + block.y * x0.sampleStride + first, count, x);
        quadNoise(noise[block.y], first, count, eps);
        DDAD_UNROLL
        for (int i = 0; i < kQuad; ++i) {
          if (i >= count) continue;
          const int64_t at = batch.output(block.y, first + i);
          const float error = eps[i] - modelOutput[at], v = modelOutput[at + batch.channels];
          float dv;
          const float own = step.first ? decoderNllGradient(step, x[i], step.sqrtRecipm1 * error, v, &dv)
                                       : klNatsGradient(step, step.sqrtRecipm1 * error, v, &dv);
          squares += static_cast<double>(error) * static_cast<double>(error);
          nats += static_cast<double>(own);
          if (gradient == nullptr) continue;
          gradient[at] = error * (-2.0f * mseScale);
          gradient[at + batch.channels] = dv * vbScale;
        }
      }
      shared.sums[0][thread] = squares;
      shared.sums[1][thread] = nats;
    }
  }
};

/// A sample a thread.
struct LossTotals {
  const double* partial;
  int64_t samples, blocks;
  double elements, bits;
  SampleLoss* losses;

  DDAD_HD_MEMBER int64_t items() const { return samples; }
  DDAD_HD_MEMBER void item(int64_t n) const {
    SampleLoss loss;
    loss.mse = sumOfBlocks<2>(partial, n, blocks, 0) / elements;
    loss.vb = sumOfBlocks<2>(partial, n, blocks, 1) * bits / elements;
    loss.loss = loss.mse + loss.vb;
    losses[n] = loss;
  }
};

}  // namespace ddad
