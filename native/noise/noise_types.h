#pragma once
// What the functions of the diffusion process take and give.
#include <cstdint>

namespace ddad {

constexpr int kMaxImageChannels = 64;

struct ImageBatch {
  int64_t samples = 0;
  int64_t pixels = 0;  // height * width
  int channels = 0;
  int64_t elements() const { return pixels * channels; }
};

/// Where a sample's standard normal noise comes from: `values` [pixels, C], or Philox at (stream, step, sample) with
/// `seed` where `values` is null (see base/philox.h). `sample` counts over the whole batch, however it is split.
struct NoiseSource {
  const float* values = nullptr;
  uint64_t seed = 0;
  uint32_t stream = 0;
  uint32_t step = 0;
  uint32_t sample = 0;
};

/// A batch of images, [samples, pixels, C]; a stride of 0 shares one image between all samples.
struct ImageView {
  const float* data = nullptr;
  int64_t sampleStride = 0;
};

/// Of one sample; all are means over pixels and channels.
struct SampleLoss {
  double loss;  // mse + vb
  double mse;   // of eps, equation (6)
  double vb;    // the variational term in bits, times the weight
};

/// Mean and standard deviation (n - 1; 0 for one value) of a measure of one sample.
struct PixelStatistics {
  double mean, std;                // of the mean over channels, over pixels
  double elementMean, elementStd;  // over pixels and channels
};

/// map += scale * kl + offset, one for each sample.
struct EnsembleTerm {
  float scale;
  float offset;
};

/// What is measured at a pixel, xhat0 clamped, mean over channels: the KL in nats, equation (9), or the squared error
/// (x_0 - xhat0)^2 of the reconstruction from x_t.
enum class PixelMeasure { kKl, kReconstruction };

/// What a reverse step yields, each [samples, pixels, C]; null leaves it out.
struct ReverseOutputs {
  float* xstart = nullptr;       // xhat0
  float* mean = nullptr;         // mu_theta
  float* logVariance = nullptr;  // log var_theta
  float* next = nullptr;         // x_{t-1}
};

}  // namespace ddad
