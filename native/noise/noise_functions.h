#pragma once
// What a device with kernels of its own offers of noise/noising.h, whose comments hold; pointers to images, outputs,
// losses, statistics and sums are the device's, those to coefficients, noise sources and terms (an entry a sample) the
// host's and free to change when the call returns. NoiseSource::values is the device's.
#include "device/device.h"
#include "noise/diffusion_math.h"
#include "noise/noise_types.h"

namespace ddad {

struct NoiseFunctions {
  void (*fillNormal)(const Device&, const NoiseSource& source, int64_t count, float* out);
  void (*noising)(const Device&, const ImageBatch&, ImageView x0, const StepCoefficients*, const NoiseSource*,
                  float* xt);
  void (*diffusionLoss)(const Device&, const ImageBatch&, ImageView x0, const float* modelOutput,
                        const StepCoefficients*, const NoiseSource*, double vbWeight, int64_t lossSamples,
                        SampleLoss* losses, float* gradient);
  void (*pixelScore)(const Device&, PixelMeasure, const ImageBatch&, ImageView x0, const float* modelOutput,
                     const StepCoefficients*, const NoiseSource*, const EnsembleTerm*, float* values,
                     PixelStatistics* statistics, float* map);
  void (*variationalMap)(const Device&, const ImageBatch&, ImageView x0, const float* modelOutput,
                         const StepCoefficients*, const NoiseSource*, bool clip, bool decoder, float* nats);
  void (*priorBits)(const Device&, const ImageBatch&, ImageView x0, const StepCoefficients& last, double* bits);
  void (*reverseStep)(const Device&, const ImageBatch&, const float* xt, const float* modelOutput,
                      const StepCoefficients*, const DdimCoefficients*, const NoiseSource* z, bool clip,
                      const ReverseOutputs&);
  void (*descend)(const Device&, int64_t elements, double stepSize, const float* gradient, float* x);
};

}  // namespace ddad
