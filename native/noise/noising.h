#pragma once
// The diffusion process over whole batches: noising, the training loss with its gradient, the pixel-level score, the
// reverse step. Noise is regenerated from its counter (or taken from an array), never stored.
//
// Shapes: images are float32 NHWC [samples, pixels, C] in [-1, 1]; the network's output is [samples, pixels, 2C], eps
// in channels [0, C), v in [C, 2C). Every function is cut into fixed pieces, so its results are the same, bit for bit,
// for any thread count and any split of the batch. At most kMaxImageChannels channels, else ERR_ARGUMENT.
//
// Images, outputs of the network and everything that is computed lie in the device's memory, and work is enqueued
// there; coefficients, noise sources and terms, an entry a sample, are the host's and may change when the call returns.
#include <cstdint>

#include "device/device.h"
#include "noise/diffusion_math.h"
#include "noise/noise_types.h"

namespace ddad {

/// The first `count` numbers of a source, as the functions below see them.
void fillNormal(const Device& device, const NoiseSource& source, int64_t count, float* out);

/// A share of the samples whose time step is drawn below a limit only: where the scores are taken.
struct TimestepFocus {
  double share = 0;
  int below = 0;
};

/// Step indices for samples [firstSample, firstSample + count) of training step `step`: uniform in [0, steps), or in
/// [0, focus.below) for the samples that the focus takes.
void sampleTimesteps(uint64_t seed, uint32_t step, uint32_t firstSample, int64_t count, int steps, TimestepFocus focus,
                     int32_t* t);

/// Equation (1): xt [samples, pixels, C]. `coefficients` and `noise` have one entry a sample.
void noising(const Device& device, const ImageBatch& batch, ImageView x0, const StepCoefficients* coefficients,
             const NoiseSource* noise, float* xt);

/// Equations (4)-(7): L = L_mse + vbWeight L_vb for each sample, and the gradient of sum(L) / lossSamples by the
/// network's output, where `gradient` ([samples, pixels, 2C]) is not null. L_vb trains v only; at step 0 it is the
/// decoder's negative log-likelihood. `lossSamples` is the size of the whole batch, also when this call holds a part.
/// guided-diffusion's rescaled_mse is vbWeight = steps / 1000, its mse vbWeight = 1.
void diffusionLoss(const Device& device, const ImageBatch& batch, ImageView x0, const float* modelOutput,
                   const StepCoefficients* coefficients, const NoiseSource* noise, double vbWeight, int64_t lossSamples,
                   SampleLoss* losses, float* gradient);

/// Outputs, each left out where null: values [samples, pixels] of the measure; statistics [samples]; map [pixels], the
/// sum over samples of terms[n].scale * values[n] + terms[n].offset (equation (11) when the samples are the noise
/// scales of one image).
void pixelScore(const Device& device, PixelMeasure measure, const ImageBatch& batch, ImageView x0,
                const float* modelOutput, const StepCoefficients* coefficients, const NoiseSource* noise,
                const EnsembleTerm* terms, float* values, PixelStatistics* statistics, float* map);

/// The variational term in nats by element, before any mean: [samples, pixels, C]. The KL at every step, or
/// (decoder) the discretised likelihood, which holds at step 0 only. `clip` clamps xhat0.
void variationalMap(const Device& device, const ImageBatch& batch, ImageView x0, const float* modelOutput,
                    const StepCoefficients* coefficients, const NoiseSource* noise, bool clip, bool decoder,
                    float* nats);

/// L_T, equation (8), in bits, mean over a sample's elements; `last` is the chain's last step.
void priorBits(const Device& device, const ImageBatch& batch, ImageView x0, const StepCoefficients& last, double* bits);

/// Equations (2)-(3): p(x_{t-1} | x_t) and a sample of it with noise `z`; DDIM where `ddim` (one entry a sample) is not
/// null, DDPM otherwise. `z` may be null where nothing random is needed (no `next`, or DDIM with eta 0).
void reverseStep(const Device& device, const ImageBatch& batch, const float* xt, const float* modelOutput,
                 const StepCoefficients* coefficients, const DdimCoefficients* ddim, const NoiseSource* z, bool clip,
                 const ReverseOutputs& outputs);

/// x <- sqrt(1 - s^2) x - s g / std(g) for one image of `elements` values, std with n - 1 over all of them (Algorithm
/// 1). Where the gradient is the same everywhere, which has no direction, x stays as it is.
void descend(const Device& device, int64_t elements, double stepSize, const float* gradient, float* x);

}  // namespace ddad
