// The diffusion process on the GPU; see noise/noising.h.
#include <string>

#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"
#include "noise/noise_functions_cuda.h"
#include "noise/noise_grid.h"
#include "noise/score_grid.h"

namespace ddad {
namespace gpu {
namespace {

constexpr double kLn2 = 0.693147180559945309417;

template <class... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

/// `x0` and `arrays`: those of one value an element that are loaded and stored four at a time.
template <class... Arrays>
QuadBatch quads(const ImageBatch& batch, ImageView x0, Arrays... arrays) {
  if (batch.channels < 1 || batch.channels > kMaxImageChannels)
    throw Error("ERR_ARGUMENT", "image channels: expected 1 to " + std::to_string(kMaxImageChannels) + ", got " +
                                    std::to_string(batch.channels));
  if (batch.samples > 65535)
    throw Error("ERR_ARGUMENT", "samples: expected at most 65535, got " + std::to_string(batch.samples));
  const bool whole = batch.elements() % kQuad == 0 && x0.sampleStride % kQuad == 0;
  return {batch.samples, batch.pixels, batch.channels, whole && aligned(x0.data, arrays...)};
}

double* doubles(const CudaDevice& device, int64_t count) {
  return static_cast<double*>(device.scratch(count * static_cast<int64_t>(sizeof(double))));
}

void fillNormal(const Device& device, const NoiseSource& source, int64_t count, float* out) {
  const FillNormal kernel{source, count, out};
  launchGrid(cudaDevice(device).stream(), kernel);
}

void noising(const Device& device, const ImageBatch& images, ImageView x0, const StepCoefficients* coefficients,
             const NoiseSource* noise, float* xt) {
  const CudaDevice& cuda = cudaDevice(device);
  const QuadBatch batch = quads(images, x0, xt);
  const NoiseImages kernel{batch, x0, cuda.stage(coefficients, batch.samples), cuda.stage(noise, batch.samples), xt};
  launchGrid(cuda.stream(), kernel, batch.extent(kernel.kThreads));
}

void diffusionLoss(const Device& device, const ImageBatch& images, ImageView x0, const float* modelOutput,
                   const StepCoefficients* coefficients, const NoiseSource* noise, double vbWeight, int64_t lossSamples,
                   SampleLoss* losses, float* gradient) {
  const CudaDevice& cuda = cudaDevice(device);
  const QuadBatch batch = quads(images, x0);
  const double elements = static_cast<double>(batch.elements()), bits = vbWeight / kLn2;
  const int64_t blocks = batch.blocks(LossElements::kThreads);
  double* const partial = doubles(cuda, batch.samples * blocks * 2);
  const LossElements kernel{batch,
                            x0,
                            modelOutput,
                            cuda.stage(coefficients, batch.samples),
                            cuda.stage(noise, batch.samples),
                            static_cast<float>(1.0 / (elements * static_cast<double>(lossSamples))),
                            static_cast<float>(bits / (elements * static_cast<double>(lossSamples))),
                            gradient,
                            partial};
  launchGrid(cuda.stream(), kernel, batch.extent(kernel.kThreads));
  const LossTotals totals{partial, batch.samples, blocks, elements, bits, losses};
  launchGrid(cuda.stream(), totals);
}

void pixelScore(const Device& device, PixelMeasure measure, const ImageBatch& images, ImageView x0,
                const float* modelOutput, const StepCoefficients* coefficients, const NoiseSource* noise,
                const EnsembleTerm* terms, float* values, PixelStatistics* statistics, float* map) {
  const CudaDevice& cuda = cudaDevice(device);
  const QuadBatch batch = quads(images, {});
  const int64_t blocks = blocksOf(batch.pixels, ScorePixels::kThreads), sums = batch.samples * blocks * 4;
  double* const partial = doubles(cuda, sums + (values == nullptr ? blocksOf(batch.samples * batch.pixels, 2) : 0));
  float* const measured = values != nullptr ? values : reinterpret_cast<float*>(partial + sums);
  const ScorePixels kernel{batch,
                           x0,
                           modelOutput,
                           cuda.stage(coefficients, batch.samples),
                           cuda.stage(noise, batch.samples),
                           measure == PixelMeasure::kKl,
                           measured,
                           partial};
  launchGrid(cuda.stream(), kernel);
  if (statistics != nullptr) {
    const ScoreStatistics totals{
        partial,   batch.samples, blocks, static_cast<double>(batch.pixels), static_cast<double>(batch.elements()),
        statistics};
    launchGrid(cuda.stream(), totals);
  }
  if (map == nullptr) return;
  const ScoreMap sum{measured, cuda.stage(terms, batch.samples), batch.samples, batch.pixels, map};
  launchGrid(cuda.stream(), sum);
}

void variationalMap(const Device& device, const ImageBatch& images, ImageView x0, const float* modelOutput,
                    const StepCoefficients* coefficients, const NoiseSource* noise, bool clip, bool decoder,
                    float* nats) {
  const CudaDevice& cuda = cudaDevice(device);
  const QuadBatch batch = quads(images, x0);
  const VariationalElements kernel{
      batch, x0,      modelOutput, cuda.stage(coefficients, batch.samples), cuda.stage(noise, batch.samples),
      clip,  decoder, nats};
  launchGrid(cuda.stream(), kernel, batch.extent(kernel.kThreads));
}

void priorBits(const Device& device, const ImageBatch& images, ImageView x0, const StepCoefficients& last,
               double* bits) {
  const CudaDevice& cuda = cudaDevice(device);
  const QuadBatch batch = quads(images, {});
  const int64_t blocks = batch.blocks(PriorElements::kThreads);
  double* const partial = doubles(cuda, batch.samples * blocks);
  const PriorElements kernel{batch, x0, last, partial};
  launchGrid(cuda.stream(), kernel, batch.extent(kernel.kThreads));
  const PriorTotals totals{partial, batch.samples, blocks, 1.0 / (static_cast<double>(batch.elements()) * kLn2), bits};
  launchGrid(cuda.stream(), totals);
}

void reverseStep(const Device& device, const ImageBatch& images, const float* xt, const float* modelOutput,
                 const StepCoefficients* coefficients, const DdimCoefficients* ddim, const NoiseSource* z, bool clip,
                 const ReverseOutputs& outputs) {
  const CudaDevice& cuda = cudaDevice(device);
  const QuadBatch batch = quads(images, {});
  const ReverseElements kernel{batch,
                               xt,
                               modelOutput,
                               cuda.stage(coefficients, batch.samples),
                               ddim == nullptr ? nullptr : cuda.stage(ddim, batch.samples),
                               z == nullptr ? nullptr : cuda.stage(z, batch.samples),
                               clip,
                               outputs};
  launchGrid(cuda.stream(), kernel, batch.extent(kernel.kThreads));
}

void descend(const Device& device, int64_t elements, double stepSize, const float* gradient, float* x) {
  const CudaDevice& cuda = cudaDevice(device);
  const int64_t blocks = blocksOf(elements, int64_t{GradientMoments::kThreads} * kQuad);
  double* const partial = doubles(cuda, blocks * 2 + 2);
  auto* const factors = reinterpret_cast<float*>(partial + blocks * 2);
  const GradientMoments moments{gradient, elements, partial};
  launchGrid(cuda.stream(), moments);
  launchGrid(cuda.stream(), DescendFactors{partial, blocks, static_cast<double>(elements), stepSize, factors});
  const DescendElements kernel{factors, gradient, elements, x};
  launchGrid(cuda.stream(), kernel);
}

}  // namespace
}  // namespace gpu

const NoiseFunctions& cudaNoiseFunctions() {
  static const NoiseFunctions functions = {gpu::fillNormal,     gpu::noising,   gpu::diffusionLoss, gpu::pixelScore,
                                           gpu::variationalMap, gpu::priorBits, gpu::reverseStep,   gpu::descend};
  return functions;
}

}  // namespace ddad
