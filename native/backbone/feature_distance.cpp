#include "backbone/feature_distance.h"

#include <algorithm>
#include <functional>
#include <string>

#include "device/parallel.h"
#include "tensor/bilinear.h"
#include "tensor/error.h"

namespace ddad {
namespace {

PlanOptions optionsOf(int64_t images, int64_t height, int64_t width, bool gradients) {
  PlanOptions options;
  options.batch = images;
  options.height = height;
  options.width = width;
  options.training = options.inputGradients = gradients;
  options.paramGradients = false;
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
      features_(images * (height / 4) * (width / 4) * dims_),
      distances_(images * (height / 4) * (width / 4)),
      featureGradient_(gradients ? features_.size() : 0),
      weights_((height / 4) * (width / 4)),
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
    TapChoices chosen{&tap, {}, {}, {}};
    for (int64_t place = 0; place < dims_; ++place) {
      const int64_t channel = dims[static_cast<size_t>(place)];
      if (channel < offset || channel >= offset + tap.channels) continue;
      chosen.choices.push_back({channel - offset, place});
      chosen.mean.push_back(source.mean[static_cast<size_t>(channel)]);
      chosen.inverseStd.push_back(1.0f / source.std[static_cast<size_t>(channel)]);
    }
    offset += tap.channels;
    taps_.push_back(std::move(chosen));
  }
  const std::vector<double> rows = shares(gridHeight(), height), columns = shares(gridWidth(), width);
  for (int64_t p = 0; p < positions(); ++p)
    weights_.data()[p] =
        static_cast<float>(rows[static_cast<size_t>(p / gridWidth())] * columns[static_cast<size_t>(p % gridWidth())]);
  plan_.prepare();
}

void FeatureDistance::extract(const float* images, int64_t channels, const Cancel& cancel) {
  repeatChannels(images, images_ * height_ * width_, channels, plan_.value(source_.backbone.input));
  plan_.forward(cancel);
  for (const TapChoices& tap : taps_) resize(tap);
}

void FeatureDistance::resize(const TapChoices& tap) {
  const Shape& in = plan_.shape(tap.tap->tensor);
  const float* from = plan_.value(tap.tap->tensor);
  const int64_t h = gridHeight(), w = gridWidth();
  parallelFor(device_.threads(), images_ * h, [&](int64_t row) {
    const BilinearPlace y = bilinearPlace(row % h, in.h, h);
    const float* image = from + row / h * in.h * in.w * in.c;
    for (int64_t i = 0; i < w; ++i) {
      const BilinearPlace x = bilinearPlace(i, in.w, w);
      const float *a = image + (y.low * in.w + x.low) * in.c, *b = image + (y.low * in.w + x.high) * in.c;
      const float *d = image + (y.high * in.w + x.low) * in.c, *e = image + (y.high * in.w + x.high) * in.c;
      float* to = features_.data() + (row * w + i) * dims_;
      for (size_t k = 0; k < tap.choices.size(); ++k) {
        const int64_t c = tap.choices[k].channel;
        const float top = a[c] + (b[c] - a[c]) * x.fraction, bottom = d[c] + (e[c] - d[c]) * x.fraction;
        to[tap.choices[k].place] = (top + (bottom - top) * y.fraction - tap.mean[k]) * tap.inverseStd[k];
      }
    }
  });
}

void FeatureDistance::run(const FeatureGaussian& gaussian, const float* images, int64_t channels,
                          const Cancel& cancel) {
  checkGrid(gaussian.shape, height_, width_);
  extract(images, channels, cancel);
  mahalanobis(device_, gaussian, features_.data(), images_, positions(), distances_.data(), weights_.data(),
              gradients_ ? featureGradient_.data() : nullptr);
}

double FeatureDistance::loss(int64_t i) const {
  double sum = 0;
  for (int64_t p = 0; p < positions(); ++p)
    sum += static_cast<double>(weights_.data()[p]) * static_cast<double>(distances(i)[p]);
  return sum;
}

/// The transpose of resize: each position gives its gradient to the four that it came from. One thread an image, since
/// positions share them.
void FeatureDistance::resizeBack(const TapChoices& tap) {
  const Shape& in = plan_.shape(tap.tap->tensor);
  const int64_t h = gridHeight(), w = gridWidth();
  parallelFor(device_.threads(), images_, [&](int64_t n) {
    float* image = plan_.gradient(tap.tap->tensor) + n * in.h * in.w * in.c;
    for (int64_t p = 0; p < h * w; ++p) {
      const BilinearPlace y = bilinearPlace(p / w, in.h, h), x = bilinearPlace(p % w, in.w, w);
      float *a = image + (y.low * in.w + x.low) * in.c, *b = image + (y.low * in.w + x.high) * in.c;
      float *d = image + (y.high * in.w + x.low) * in.c, *e = image + (y.high * in.w + x.high) * in.c;
      const float* from = featureGradient_.data() + (n * h * w + p) * dims_;
      for (size_t k = 0; k < tap.choices.size(); ++k) {
        const int64_t c = tap.choices[k].channel;
        const float g = from[tap.choices[k].place] * tap.inverseStd[k];
        const float bottom = g * y.fraction, top = g - bottom;
        a[c] += top * (1.0f - x.fraction);
        b[c] += top * x.fraction;
        d[c] += bottom * (1.0f - x.fraction);
        e[c] += bottom * x.fraction;
      }
    }
  });
}

void FeatureDistance::gradient(int64_t channels, float* to, const Cancel& cancel) {
  for (const Backbone::Tap& tap : source_.backbone.taps)  // also of those that the features leave out
    std::fill_n(plan_.gradient(tap.tensor), plan_.shape(tap.tensor).size(), 0.0f);
  for (const TapChoices& tap : taps_) resizeBack(tap);
  plan_.backward(cancel);
  const float* input = plan_.gradient(source_.backbone.input);
  const int64_t pixels = images_ * height_ * width_;
  if (channels == 3)
    std::copy_n(input, pixels * 3, to);
  else  // one channel was repeated
    for (int64_t p = 0; p < pixels; ++p) to[p] = input[3 * p] + input[3 * p + 1] + input[3 * p + 2];
}

int64_t FeatureDistance::bytes() const {
  return features_.bytes() + distances_.bytes() + featureGradient_.bytes() + weights_.bytes() +
         plan_.activationBytes() + plan_.packedBytes();
}

}  // namespace ddad
