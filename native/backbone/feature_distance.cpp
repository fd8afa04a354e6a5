#include "backbone/feature_distance.h"

#include <algorithm>
#include <functional>
#include <string>

#include "base/bilinear.h"
#include "base/error.h"

namespace ddad {
namespace {

PlanOptions optionsOf(int64_t images, int64_t height, int64_t width, bool gradients) {
  PlanOptions options;
  options.batch = images;
  options.height = height;
  options.width = width;
  options.training = options.inputGradients = gradients;
  options.paramGradients = false;
  options.float32 = true;
  return options;
}

/// What each of `in` positions weighs in the mean over `n` resized ones.
std::vector<double> shares(int64_t in, int64_t n) {
  std::vector<double> weights(static_cast<size_t>(in));
  for (int64_t i = 0; i < n; ++i) {
    const BilinearPlace place = bilinearPlace(i, in, n);
    const auto high = static_cast<double>(place.fraction) / static_cast<double>(n);
    weights[static_cast<size_t>(place.low)] += 1.0 / static_cast<double>(n) - high;
    weights[static_cast<size_t>(place.high)] += high;
  }
  return weights;
}

}  // namespace

void checkGrid(const GaussianShape& shape, int64_t height, int64_t width) {
  if (shape.pooled() || (shape.gridHeight == height / 4 && shape.gridWidth == width / 4)) return;
  throw Error("ERR_IMAGE", "image: the model has a Gaussian for each place of images of " +
                               std::to_string(shape.gridWidth * 4) + " x " + std::to_string(shape.gridHeight * 4) +
                               " pixels, got " + std::to_string(width) + " x " + std::to_string(height));
}

FeatureDistance::FeatureDistance(const Device& device, FeatureSource& source, std::vector<int32_t> dims, int64_t images,
                                 int64_t height, int64_t width, bool gradients, PlanMemory* memory)
    : device_(device),
      source_(source),
      images_(images),
      height_(height),
      width_(width),
      dims_(static_cast<int64_t>(dims.size())),
      gradients_(gradients),
      features_(device, images * (height / 4) * (width / 4) * dims_),
      distances_(device, images * (height / 4) * (width / 4)),
      weights_(device, (height / 4) * (width / 4)),
      featureGradient_(device, gradients ? features_.size() : 0),
      plan_(device, source.backbone.graph, optionsOf(images, height, width, gradients), source.block, memory) {
  if (height % source.unit() != 0 || width % source.unit() != 0)
    throw Error("ERR_CONFIG", "features: expected a height and width that " + std::to_string(source.unit()) +
                                  " divides, got " + std::to_string(height) + " x " + std::to_string(width));
  if (dims.empty() || dims.front() < 0 || dims.back() >= source.channels() ||
      std::adjacent_find(dims.begin(), dims.end(), std::greater_equal<>()) != dims.end())
    throw Error("ERR_CONFIG", "channels of the Gaussian: expected some of 0 to " +
                                  std::to_string(source.channels() - 1) + ", ascending");
  int64_t offset = 0;
  for (const Backbone::Tap& tap : source.taps) {
    std::vector<int32_t> tapChannel, place,
        channels;  // a chosen channel each: within the tap, among the chosen, of f(x)
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] < offset || dims[i] >= offset + tap.channels) continue;
      tapChannel.push_back(static_cast<int32_t>(dims[i] - offset));
      place.push_back(static_cast<int32_t>(i));
      channels.push_back(dims[i]);
    }
    offset += tap.channels;
    const Shape& in = plan_.shape(tap.tensor);
    const TapResize shape = {.images = images,
                             .inHeight = in.h,
                             .inWidth = in.w,
                             .inChannels = in.c,
                             .height = gridHeight(),
                             .width = gridWidth(),
                             .outChannels = dims_};
    selections_.emplace_back(device, shape, tapChannel, place);
    selections_.back().setStatistics(source.mean, source.std, channels);
  }
  const std::vector<double> rows = shares(gridHeight(), height), columns = shares(gridWidth(), width);
  for (int64_t p = 0; p < positions(); ++p)
    weights_.host()[p] =
        static_cast<float>(rows[static_cast<size_t>(p / gridWidth())] * columns[static_cast<size_t>(p % gridWidth())]);
  weights_.upload();
  device.synchronize();
  plan_.prepare();
}

void FeatureDistance::extract(const float* images, int64_t channels, const Cancel& cancel) {
  repeatChannels(device_, images, images_ * height_ * width_, channels, plan_.value(source_.backbone.input));
  plan_.forward(cancel);
  for (size_t t = 0; t < selections_.size(); ++t)
    resizeTap(device_, selections_[t].resize(), plan_.value(source_.taps[t].tensor), features_.device());
}

const float* FeatureDistance::features() {
  features_.download();
  device_.synchronize();
  return features_.host();
}

void FeatureDistance::run(const FeatureGaussian& gaussian, const float* images, int64_t channels,
                          const Cancel& cancel) {
  checkGrid(gaussian.shape, height_, width_);
  extract(images, channels, cancel);
  mahalanobis(device_, gaussian, features_.device(), images_, positions(), distances_.device(), weights_.device(),
              gradients_ ? featureGradient_.data() : nullptr);
}

const float* FeatureDistance::distances(int64_t i) {
  distances_.download();
  device_.synchronize();
  return distances_.host() + i * positions();
}

double FeatureDistance::loss(int64_t i) {
  const float* of = distances(i);
  double sum = 0;
  for (int64_t p = 0; p < positions(); ++p) sum += static_cast<double>(weights_.host()[p]) * static_cast<double>(of[p]);
  return sum;
}

void FeatureDistance::gradient(int64_t channels, float* to, const Cancel& cancel) {
  for (const Backbone::Tap& tap : source_.backbone.taps)  // also of those that the features leave out
    device_.clear(plan_.gradient(tap.tensor), plan_.shape(tap.tensor).size() * static_cast<int64_t>(sizeof(float)));
  for (size_t t = 0; t < selections_.size(); ++t)
    resizeTapBack(device_, selections_[t].resize(), featureGradient_.data(), plan_.gradient(source_.taps[t].tensor));
  plan_.backward(cancel);
  sumChannels(device_, plan_.gradient(source_.backbone.input), images_ * height_ * width_, channels, to);
}

int64_t FeatureDistance::bytes() const {
  return features_.bytes() + distances_.bytes() + featureGradient_.bytes() + weights_.bytes() +
         plan_.activationBytes() + plan_.packedBytes();
}

}  // namespace ddad
