#include "backbone/features.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "backbone/feature_kernels.h"
#include "base/error.h"
#include "device/parallel.h"
#include "file/json_fields.h"

namespace ddad {
namespace {

PlanOptions backbonePlan(int64_t images, int64_t height, int64_t width) {
  PlanOptions options{images, height, width};
  options.float32 = true;  // what training and scoring compare with stays as it was learned
  return options;
}

std::string strideText(const std::vector<Backbone::Tap>& taps) {
  std::string text;
  for (const Backbone::Tap& tap : taps) text += (text.empty() ? "" : ", ") + std::to_string(int64_t{1} << tap.level);
  return text;
}

}  // namespace

FeatureConfig FeatureConfig::fromJson(const nlohmann::json& config) {
  FeatureConfig c;
  const auto features = config.find("features");
  if (features == config.end() || features->is_null()) return c;
  if (!features->is_object())
    throw Error("ERR_CONFIG", "features: expected an object or null, got " + features->dump().substr(0, 80));
  const auto list = features->find("strides");
  if (list != features->end() && list->is_array())
    for (const nlohmann::json& v : *list)
      if (v.is_number_integer()) c.strides.push_back(v.get<int64_t>());
  const bool known =
      std::all_of(c.strides.begin(), c.strides.end(), [](int64_t s) { return s == 2 || s == 4 || s == 8 || s == 16; });
  const bool ascending =
      std::adjacent_find(c.strides.begin(), c.strides.end(), std::greater_equal<>()) == c.strides.end();
  if (c.strides.empty() || !known || !ascending)
    throw Error("ERR_CONFIG", "features.strides: expected some of 2, 4, 8, 16 in this order, got " +
                                  (list == features->end() ? "nothing" : list->dump().substr(0, 80)));
  c.scale = integerField(*features, "scale", 1, 4, 1);
  c.weight = numberField(*features, "weight", 0, 1e6, 1);
  c.depth = integerField(*features, "depth", 2, 32, c.strides.back());
  if ((c.depth & (c.depth - 1)) != 0 || c.depth < c.strides.back())
    throw Error("ERR_CONFIG", "features.depth: expected a stride of the backbone's taps, " +
                                  std::to_string(c.strides.back()) + " to 32, got " + std::to_string(c.depth));
  return c;
}

FeatureSource openFeatures(const TensorSource& file, const std::string& prefix, const FeatureConfig& config) {
  const std::vector<int64_t>& strides = config.strides;
  FeatureSource source;
  source.scale = config.scale;
  source.backbone = loadBackbone(file, prefix, std::max(strides.back(), config.depth));
  source.block.values = std::move(source.backbone.parameters);
  int64_t channels = 0;
  for (const Backbone::Tap& tap : source.backbone.taps)
    if (std::find(strides.begin(), strides.end(), int64_t{1} << tap.level) != strides.end()) {
      source.taps.push_back(tap);
      channels += tap.channels;
    }
  if (source.taps.size() != strides.size())
    throw Error("ERR_MODEL_FORMAT",
                file.path() + ": expected a tap at each stride asked for, got " + strideText(source.backbone.taps));
  source.mean.assign(static_cast<size_t>(channels), 0.0f);
  source.std.assign(static_cast<size_t>(channels), 1.0f);
  return source;
}

FeatureSource copyFeatures(const FeatureSource& source) {
  FeatureSource copy;
  copy.backbone.graph = source.backbone.graph;
  copy.backbone.input = source.backbone.input;
  copy.backbone.taps = source.backbone.taps;
  copy.backbone.style = source.backbone.style;
  copy.block.values = AlignedBuffer(source.block.values.size());
  std::copy_n(source.block.values.data(), source.block.values.size(), copy.block.values.data());
  copy.taps = source.taps;
  copy.mean = source.mean;
  copy.std = source.std;
  copy.scale = source.scale;
  return copy;
}

void reduceImages(const Device& device, const float* from, int64_t n, int64_t height, int64_t width, int64_t channels,
                  int64_t scale, float* to) {
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->reduceImages(device, from, n, height, width, channels, scale, to);
  reduceImages(from, n, height, width, channels, scale, to);
}

void reduceImages(const float* from, int64_t n, int64_t height, int64_t width, int64_t channels, int64_t scale,
                  float* to) {
  const float weight = 1.0f / static_cast<float>(scale * scale);
  const int64_t row = width * scale * channels;
  for (int64_t y = 0; y < n * height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < channels; ++c) {
        float sum = 0;
        for (int64_t i = 0; i < scale; ++i)
          for (int64_t j = 0; j < scale; ++j) sum += from[(y * scale + i) * row + (x * scale + j) * channels + c];
        *to++ = sum * weight;
      }
}

void repeatChannels(const Device& device, const float* pixels, int64_t count, int64_t channels, float* to) {
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->repeatChannels(device, pixels, count, channels, to);
  if (channels == 3) {
    std::copy_n(pixels, count * 3, to);
    return;
  }
  for (int64_t p = 0; p < count; ++p) std::fill_n(to + 3 * p, 3, pixels[p * channels]);
}

void sumChannels(const Device& device, const float* three, int64_t count, int64_t channels, float* to) {
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->sumChannels(device, three, count, channels, to);
  if (channels == 3) {
    std::copy_n(three, count * 3, to);
    return;
  }
  for (int64_t p = 0; p < count; ++p) to[p] = three[3 * p] + three[3 * p + 1] + three[3 * p + 2];
}

FeatureExtractor::FeatureExtractor(const Device& device, FeatureSource& source, int64_t images, int64_t height,
                                   int64_t width, PlanMemory* memory)
    : device_(device),
      source_(source),
      images_(images),
      height_(height),
      width_(width),
      plan_(device, source.backbone.graph, backbonePlan(images, height, width), source.block, memory) {
  if (height % source.unit() != 0 || width % source.unit() != 0)
    throw Error("ERR_CONFIG", "features: expected a height and width that " + std::to_string(source.unit()) +
                                  " divides, got " + std::to_string(height) + " x " + std::to_string(width));
  int32_t offset = 0;
  for (const Backbone::Tap& tap : source.taps) {
    const Shape& in = plan_.shape(tap.tensor);
    std::vector<int32_t> tapChannel(static_cast<size_t>(tap.channels)), place(tapChannel);
    std::iota(tapChannel.begin(), tapChannel.end(), 0);
    std::iota(place.begin(), place.end(), offset);
    const TapResize shape = {.images = images,
                             .inHeight = in.h,
                             .inWidth = in.w,
                             .inChannels = in.c,
                             .height = height / source.gridStride(),
                             .width = width / source.gridStride(),
                             .outChannels = source.channels()};
    taps_.emplace_back(device, shape, tapChannel, place);
    channels_.push_back(std::move(place));
    offset += static_cast<int32_t>(tap.channels);
  }
  plan_.prepare();
}

void FeatureExtractor::run(const float* images, int64_t channels, float* out, const Cancel& cancel) {
  repeatChannels(device_, images, images_ * height_ * width_, channels, plan_.value(source_.backbone.input));
  plan_.forward(cancel);
  for (size_t t = 0; t < taps_.size(); ++t) {
    taps_[t].setStatistics(source_.mean, source_.std, channels_[t]);
    resizeTap(device_, taps_[t].resize(), plan_.value(source_.taps[t].tensor), out);
  }
}

void featureLoss(const Device& device, const float* predicted, const float* target, int64_t samples, int64_t elements,
                 double weight, double* losses, float* gradient) {
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->featureLoss(device, predicted, target, samples, elements, weight, losses, gradient);
  const auto kernel = DDAD_DISPATCH(squaredDistance);
  const auto scale = static_cast<float>(2.0 * weight / static_cast<double>(elements * samples));
  constexpr int64_t kPiece = 4096;
  parallelFor(device.threads(), samples, [&](int64_t i) {
    double sum = 0;
    for (int64_t first = 0; first < elements; first += kPiece) {
      const int64_t at = i * elements + first;
      sum += kernel(predicted + at, target + at, std::min(kPiece, elements - first), scale, gradient + at);
    }
    losses[i] = sum / static_cast<double>(elements);
  });
}

void featureError(const Device& device, const float* predicted, const float* target, int64_t positions,
                  int64_t channels, float* errors) {
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->featureError(device, predicted, target, positions, channels, errors);
  const auto kernel = DDAD_DISPATCH(squaredDistance);
  constexpr int64_t kRows = 64;
  parallelFor(device.threads(), (positions + kRows - 1) / kRows, [&](int64_t part) {
    for (int64_t i = part * kRows; i < std::min(positions, (part + 1) * kRows); ++i) {
      const double sum = kernel(predicted + i * channels, target + i * channels, channels, 0.0f, nullptr);
      errors[i] = static_cast<float>(sum / static_cast<double>(channels));
    }
  });
}

void ChannelStatistics::add(const float* features, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < sum_.size(); ++c) {
      const auto v = static_cast<double>(*features++);
      sum_[c] += v;
      squares_[c] += v * v;
    }
  rows_ += rows;
}

void ChannelStatistics::finish(std::vector<float>& mean, std::vector<float>& std) const {
  const double n = std::max<double>(1.0, static_cast<double>(rows_));
  for (size_t c = 0; c < sum_.size(); ++c) {
    const double m = sum_[c] / n, deviation = std::sqrt(std::max(0.0, squares_[c] / n - m * m));
    mean[c] = static_cast<float>(m);
    std[c] = deviation > 1e-6 ? static_cast<float>(deviation) : 1.0f;
  }
}

}  // namespace ddad
