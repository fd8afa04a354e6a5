// The backbone's features on the GPU; see backbone/feature_functions.h.
#include <string>

#include "backbone/feature_functions_cuda.h"
#include "backbone/feature_grid.h"
#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"

namespace ddad {
namespace gpu {
namespace {

template <class Kernel>
void launch(const Device& device, const Kernel& kernel) {
  launchGrid(cudaDevice(device).stream(), kernel);
}

void reduceImages(const Device& device, const float* from, int64_t n, int64_t height, int64_t width, int64_t channels,
                  int64_t scale, float* to) {
  launch(device, ReducePixels{from, n * height, width, channels, scale, to});
}

void repeatChannels(const Device& device, const float* pixels, int64_t count, int64_t channels, float* to) {
  launch(device, RepeatPixels{pixels, count, channels, to});
}

void sumChannels(const Device& device, const float* three, int64_t count, int64_t channels, float* to) {
  launch(device, SumPixels{three, count, channels, to});
}

void resizeTap(const Device& device, const TapResize& resize, const float* tap, float* features) {
  launch(device, ResizeTapValues{resize, tap, features});
}

void resizeTapBack(const Device& device, const TapResize& resize, const float* featureGradient, float* tapGradient) {
  launch(device, ResizeTapBackValues{resize, featureGradient, tapGradient});
}

void featureLoss(const Device& device, const float* predicted, const float* target, int64_t samples, int64_t elements,
                 double weight, double* losses, float* gradient) {
  FeatureLossValues kernel{
      predicted, target, samples, elements, static_cast<float>(2.0 * weight / static_cast<double>(elements * samples)),
      gradient,  nullptr};
  const auto bytes = samples * kernel.blocks() * static_cast<int64_t>(sizeof(double));
  kernel.partial = static_cast<double*>(cudaDevice(device).scratch(bytes));
  launch(device, kernel);
  launch(device, FeatureLossTotals{kernel.partial, samples, kernel.blocks(), elements, losses});
}

void featureError(const Device& device, const float* predicted, const float* target, int64_t positions,
                  int64_t channels, float* errors) {
  launch(device, FeatureErrors{predicted, target, positions, channels, errors});
}

void mahalanobis(const Device& device, const float* mean, const float* precision, bool pooled, int64_t d,
                 const float* features, int64_t n, int64_t positions, float* distances, const float* weights,
                 float* gradient) {
  if (d > kMostFeatureDims)
    throw Error("ERR_ARGUMENT", "a Gaussian: expected at most " + std::to_string(kMostFeatureDims) + " channels, got " +
                                    std::to_string(d));
  launch(device,
         MahalanobisPositions{mean, precision, pooled, d, features, n, positions, distances, weights, gradient});
}

}  // namespace
}  // namespace gpu

const FeatureFunctions& cudaFeatureFunctions() {
  static const FeatureFunctions functions = {gpu::reduceImages, gpu::repeatChannels, gpu::sumChannels,
                                             gpu::resizeTap,    gpu::resizeTapBack,  gpu::featureLoss,
                                             gpu::featureError, gpu::mahalanobis};
  return functions;
}

}  // namespace ddad
