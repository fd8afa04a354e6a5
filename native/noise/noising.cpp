#include "noise/noising.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/philox.h"
#include "device/parallel.h"
#include "noise/noise_functions.h"
#include "noise/noise_kernels.h"

namespace ddad {
namespace {

/// The pieces of a batch in a fixed order: piece i of sample n is number n * perSample + i.
struct Pieces {
  explicit Pieces(const ImageBatch& batch) : pixels(batch.pixels), channels(batch.channels) {
    if (channels < 1 || channels > kMaxImageChannels)
      throw Error("ERR_ARGUMENT", "image channels: expected 1 to " + std::to_string(kMaxImageChannels) + ", got " +
                                      std::to_string(channels));
    size = piecePixels(channels);
    perSample = (pixels + size - 1) / size;
    total = perSample * batch.samples;
  }

  int64_t sample(int64_t index) const { return index / perSample; }
  int64_t firstPixel(int64_t index) const { return index % perSample * size; }
  Piece piece(int64_t index) const {
    const int64_t first = firstPixel(index);
    return {first * channels, std::min(size, pixels - first), channels};
  }

  int64_t pixels, size = 0, perSample = 0, total = 0;
  int channels;
};

/// Memory for partial sums that outlives the call, so that a training step or a score allocates nothing.
template <class Sums>
Sums* partialSums(int64_t count) {
  static thread_local std::vector<Sums> sums;
  if (sums.size() < static_cast<size_t>(count)) sums.resize(static_cast<size_t>(count));
  return sums.data();
}

}  // namespace

void fillNormal(const Device& device, const NoiseSource& source, int64_t count, float* out) {
  if (const NoiseFunctions* kernels = device.functions().noise) return kernels->fillNormal(device, source, count, out);
  const auto kernel = DDAD_DISPATCH(normalPiece);
  const int64_t pieces = (count + kPieceElements - 1) / kPieceElements;
  parallelFor(device.threads(), pieces, [&](int64_t i) {
    const int64_t first = i * kPieceElements;
    kernel(&source, first, std::min(kPieceElements, count - first), out + first);
  });
}

void sampleTimesteps(uint64_t seed, uint32_t step, uint32_t firstSample, int64_t count, int steps, TimestepFocus focus,
                     int32_t* t) {
  constexpr uint32_t kFine = 1u << 24;
  const auto focused = static_cast<uint32_t>(focus.share * kFine);
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t sample = firstSample + static_cast<uint32_t>(i);
    const bool inFocus = focused > 0 && philoxBelow(seed, kStreamTimestepFocus, step, sample, kFine) < focused;
    t[i] = static_cast<int32_t>(philoxBelow(seed, kStreamTimestep, step, sample,
                                            static_cast<uint32_t>(inFocus ? std::min(focus.below, steps) : steps)));
  }
}

void noising(const Device& device, const ImageBatch& batch, ImageView x0, const StepCoefficients* coefficients,
             const NoiseSource* noise, float* xt) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->noising(device, batch, x0, coefficients, noise, xt);
  const Pieces pieces(batch);
  const auto kernel = DDAD_DISPATCH(noisingPiece);
  parallelFor(device.threads(), pieces.total, [&](int64_t i) {
    const int64_t n = pieces.sample(i);
    const Piece piece = pieces.piece(i);
    kernel(&coefficients[n], &noise[n], x0.data + n * x0.sampleStride + piece.first, piece.first,
           piece.pixels * piece.channels, xt + n * batch.elements() + piece.first);
  });
}

void diffusionLoss(const Device& device, const ImageBatch& batch, ImageView x0, const float* modelOutput,
                   const StepCoefficients* coefficients, const NoiseSource* noise, double vbWeight, int64_t lossSamples,
                   SampleLoss* losses, float* gradient) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->diffusionLoss(device, batch, x0, modelOutput, coefficients, noise, vbWeight, lossSamples, losses,
                                  gradient);
  const Pieces pieces(batch);
  const auto kernel = DDAD_DISPATCH(lossPiece);
  const double elements = static_cast<double>(batch.elements());
  const double bits = vbWeight / std::numbers::ln2;
  const float mseScale = static_cast<float>(1.0 / (elements * static_cast<double>(lossSamples)));
  const float vbScale = static_cast<float>(bits / (elements * static_cast<double>(lossSamples)));
  LossSums* const sums = partialSums<LossSums>(pieces.total);
  parallelFor(device.threads(), pieces.total, [&](int64_t i) {
    const int64_t n = pieces.sample(i);
    const Piece piece = pieces.piece(i);
    const int64_t output = 2 * (n * batch.elements() + piece.first);
    kernel(&coefficients[n], &noise[n], &piece, x0.data + n * x0.sampleStride + piece.first, modelOutput + output,
           mseScale, vbScale, gradient == nullptr ? nullptr : gradient + output, &sums[i]);
  });
  for (int64_t n = 0; n < batch.samples; ++n) {
    double mse = 0.0, vb = 0.0;
    for (int64_t i = n * pieces.perSample; i < (n + 1) * pieces.perSample; ++i) {
      mse += sums[i].mse;
      vb += sums[i].vb;
    }
    losses[n].mse = mse / elements;
    losses[n].vb = vb * bits / elements;
    losses[n].loss = losses[n].mse + losses[n].vb;
  }
}

void pixelScore(const Device& device, PixelMeasure measure, const ImageBatch& batch, ImageView x0,
                const float* modelOutput, const StepCoefficients* coefficients, const NoiseSource* noise,
                const EnsembleTerm* terms, float* values, PixelStatistics* statistics, float* map) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->pixelScore(device, measure, batch, x0, modelOutput, coefficients, noise, terms, values, statistics,
                               map);
  const Pieces pieces(batch);
  const auto kernel = DDAD_DISPATCH(scorePiece);
  PixelSums* const sums = partialSums<PixelSums>(pieces.total);
  // One piece of all samples at a time: `map` is written by one thread only, in the samples' order.
  parallelFor(device.threads(), pieces.perSample, [&](int64_t part) {
    const int64_t pixel = pieces.firstPixel(part);
    const Piece piece = pieces.piece(part);
    if (map != nullptr) std::fill_n(map + pixel, piece.pixels, 0.0f);
    for (int64_t n = 0; n < batch.samples; ++n) {
      const EnsembleTerm term = map != nullptr ? terms[n] : EnsembleTerm{0.0f, 0.0f};
      kernel(&coefficients[n], &noise[n], &piece, x0.data + n * x0.sampleStride + piece.first,
             modelOutput + 2 * (n * batch.elements() + piece.first), measure == PixelMeasure::kKl, term.scale,
             term.offset, values == nullptr ? nullptr : values + n * batch.pixels + pixel,
             map == nullptr ? nullptr : map + pixel, &sums[n * pieces.perSample + part]);
    }
  });
  if (statistics == nullptr) return;
  for (int64_t n = 0; n < batch.samples; ++n) {
    PixelSums all{};
    for (int64_t i = n * pieces.perSample; i < (n + 1) * pieces.perSample; ++i) {
      all.sum += sums[i].sum;
      all.squares += sums[i].squares;
      all.elementSum += sums[i].elementSum;
      all.elementSquares += sums[i].elementSquares;
    }
    const double pixels = static_cast<double>(batch.pixels), elements = static_cast<double>(batch.elements());
    statistics[n] = {all.sum / pixels, deviationOf(all.sum, all.squares, pixels), all.elementSum / elements,
                     deviationOf(all.elementSum, all.elementSquares, elements)};
  }
}

void variationalMap(const Device& device, const ImageBatch& batch, ImageView x0, const float* modelOutput,
                    const StepCoefficients* coefficients, const NoiseSource* noise, bool clip, bool decoder,
                    float* nats) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->variationalMap(device, batch, x0, modelOutput, coefficients, noise, clip, decoder, nats);
  const Pieces pieces(batch);
  const auto kernel = DDAD_DISPATCH(variationalPiece);
  parallelFor(device.threads(), pieces.total, [&](int64_t i) {
    const int64_t n = pieces.sample(i);
    const Piece piece = pieces.piece(i);
    const int64_t at = n * batch.elements() + piece.first;
    kernel(&coefficients[n], &noise[n], &piece, x0.data + n * x0.sampleStride + piece.first, modelOutput + 2 * at, clip,
           decoder, nats + at);
  });
}

void priorBits(const Device& device, const ImageBatch& batch, ImageView x0, const StepCoefficients& last,
               double* bits) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->priorBits(device, batch, x0, last, bits);
  const Pieces pieces(batch);
  const auto kernel = DDAD_DISPATCH(priorPiece);
  double* const sums = partialSums<double>(pieces.total);
  parallelFor(device.threads(), pieces.total, [&](int64_t i) {
    const Piece piece = pieces.piece(i);
    sums[i] = kernel(&last, x0.data + pieces.sample(i) * x0.sampleStride + piece.first, piece.pixels * piece.channels);
  });
  for (int64_t n = 0; n < batch.samples; ++n) {
    double sum = 0.0;
    for (int64_t i = n * pieces.perSample; i < (n + 1) * pieces.perSample; ++i) sum += sums[i];
    bits[n] = sum / static_cast<double>(batch.elements()) / std::numbers::ln2;
  }
}

void reverseStep(const Device& device, const ImageBatch& batch, const float* xt, const float* modelOutput,
                 const StepCoefficients* coefficients, const DdimCoefficients* ddim, const NoiseSource* z, bool clip,
                 const ReverseOutputs& outputs) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->reverseStep(device, batch, xt, modelOutput, coefficients, ddim, z, clip, outputs);
  const Pieces pieces(batch);
  const auto kernel = DDAD_DISPATCH(reversePiece);
  parallelFor(device.threads(), pieces.total, [&](int64_t i) {
    const int64_t n = pieces.sample(i);
    const Piece piece = pieces.piece(i);
    const int64_t at = n * batch.elements() + piece.first;
    const auto to = [&](float* output) { return output == nullptr ? nullptr : output + at; };
    kernel(&coefficients[n], ddim == nullptr ? nullptr : &ddim[n], z == nullptr ? nullptr : &z[n], &piece, xt + at,
           modelOutput + 2 * at, clip, to(outputs.xstart), to(outputs.mean), to(outputs.logVariance), to(outputs.next));
  });
}

void descend(const Device& device, int64_t elements, double stepSize, const float* gradient, float* x) {
  if (const NoiseFunctions* kernels = device.functions().noise)
    return kernels->descend(device, elements, stepSize, gradient, x);
  const int64_t pieces = (elements + kPieceElements - 1) / kPieceElements;
  const auto moments = DDAD_DISPATCH(momentsPiece);
  const auto step = DDAD_DISPATCH(descendPiece);
  const auto countOf = [&](int64_t i) { return std::min(kPieceElements, elements - i * kPieceElements); };
  PixelSums* const sums = partialSums<PixelSums>(pieces);
  parallelFor(device.threads(), pieces,
              [&](int64_t i) { moments(gradient + i * kPieceElements, countOf(i), &sums[i]); });
  double sum = 0.0, squares = 0.0;
  for (int64_t i = 0; i < pieces; ++i) {
    sum += sums[i].elementSum;
    squares += sums[i].elementSquares;
  }
  const double std = deviationOf(sum, squares, static_cast<double>(elements));
  if (std == 0.0) return;
  const auto keep = static_cast<float>(std::sqrt(1.0 - stepSize * stepSize)),
             scale = static_cast<float>(stepSize / std);
  parallelFor(device.threads(), pieces,
              [&](int64_t i) { step(keep, scale, gradient + i * kPieceElements, countOf(i), x + i * kPieceElements); });
}

}  // namespace ddad
