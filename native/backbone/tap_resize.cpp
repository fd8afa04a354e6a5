#include "backbone/tap_resize.h"

#include <algorithm>

#include "base/bilinear.h"
#include "device/parallel.h"

namespace ddad {
namespace {

/// Whether indices, which ascend, are neighbours.
bool consecutive(const int32_t* indices, int64_t count) { return indices[count - 1] - indices[0] == count - 1; }

/// The four positions of a tap that a position of the grid lies between.
struct Corners {
  const float *a, *b, *d, *e;
};

Corners cornersOf(const float* image, const TapResize& r, const BilinearPlace& y, const BilinearPlace& x) {
  const int64_t c = r.inChannels;
  return {image + (y.low * r.inWidth + x.low) * c, image + (y.low * r.inWidth + x.high) * c,
          image + (y.high * r.inWidth + x.low) * c, image + (y.high * r.inWidth + x.high) * c};
}

float interpolate(const Corners& corner, int64_t c, float x, float y) {
  return bilinearValue(corner.a[c], corner.b[c], corner.d[c], corner.e[c], x, y);
}

}  // namespace

void resizeTap(const Device& device, const TapResize& r, const float* tap, float* features) {
  if (r.count == 0) return;
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->resizeTap(device, r, tap, features);
  // whole taps, where nothing has to be looked up, vectorise
  const bool whole = consecutive(r.source, r.count) && consecutive(r.place, r.count);
  parallelFor(device.threads(), r.images * r.height, [&](int64_t row) {
    const BilinearPlace y = bilinearPlace(row % r.height, r.inHeight, r.height);
    const float* image = tap + row / r.height * r.inHeight * r.inWidth * r.inChannels;
    for (int64_t i = 0; i < r.width; ++i) {
      const BilinearPlace x = bilinearPlace(i, r.inWidth, r.width);
      const Corners corner = cornersOf(image + (whole ? r.source[0] : 0), r, y, x);
      float* to = features + (row * r.width + i) * r.outChannels + (whole ? r.place[0] : 0);
      if (whole)
        for (int64_t k = 0; k < r.count; ++k)
          to[k] = (interpolate(corner, k, x.fraction, y.fraction) - r.mean[k]) * r.inverseStd[k];
      else
        for (int64_t k = 0; k < r.count; ++k)
          to[r.place[k]] = (interpolate(corner, r.source[k], x.fraction, y.fraction) - r.mean[k]) * r.inverseStd[k];
    }
  });
}

/// Each position gives its gradient to the four that it came from. One thread an image, since positions share them.
void resizeTapBack(const Device& device, const TapResize& r, const float* featureGradient, float* tapGradient) {
  if (r.count == 0) return;
  if (const FeatureFunctions* kernels = device.functions().features)
    return kernels->resizeTapBack(device, r, featureGradient, tapGradient);
  parallelFor(device.threads(), r.images, [&](int64_t n) {
    float* image = tapGradient + n * r.inHeight * r.inWidth * r.inChannels;
    for (int64_t p = 0; p < r.height * r.width; ++p) {
      const BilinearPlace y = bilinearPlace(p / r.width, r.inHeight, r.height),
                          x = bilinearPlace(p % r.width, r.inWidth, r.width);
      const auto at = [&](int64_t row, int64_t column) { return image + (row * r.inWidth + column) * r.inChannels; };
      float *a = at(y.low, x.low), *b = at(y.low, x.high), *d = at(y.high, x.low), *e = at(y.high, x.high);
      const float* from = featureGradient + (n * r.height * r.width + p) * r.outChannels;
      for (int64_t k = 0; k < r.count; ++k) {
        const int64_t c = r.source[k];
        const float g = from[r.place[k]] * r.inverseStd[k];
        const float bottom = g * y.fraction, top = g - bottom;
        a[c] += top * (1.0f - x.fraction);
        b[c] += top * x.fraction;
        d[c] += bottom * (1.0f - x.fraction);
        e[c] += bottom * x.fraction;
      }
    }
  });
}

TapSelection::TapSelection(const Device& device, const TapResize& shape, const std::vector<int32_t>& source,
                           const std::vector<int32_t>& place)
    : device_(device.shared_from_this()),
      resize_(shape),
      source_(device, static_cast<int64_t>(source.size())),
      place_(device, static_cast<int64_t>(place.size())),
      mean_(device, static_cast<int64_t>(source.size())),
      inverseStd_(device, static_cast<int64_t>(source.size())) {
  std::copy(source.begin(), source.end(), source_.host());
  std::copy(place.begin(), place.end(), place_.host());
  std::fill_n(mean_.host(), mean_.size(), 0.0f);
  std::fill_n(inverseStd_.host(), inverseStd_.size(), 1.0f);
  source_.upload();
  place_.upload();
  mean_.upload();
  inverseStd_.upload();
  device.synchronize();
  resize_.count = source_.size();
  resize_.source = source_.device();
  resize_.place = place_.device();
  resize_.mean = mean_.device();
  resize_.inverseStd = inverseStd_.device();
}

void TapSelection::setStatistics(const std::vector<float>& mean, const std::vector<float>& std,
                                 const std::vector<int32_t>& channels) {
  bool same = true;
  for (size_t k = 0; k < channels.size(); ++k) {
    const auto c = static_cast<size_t>(channels[k]);
    same = same && mean_.host()[k] == mean[c] && inverseStd_.host()[k] == 1.0f / std[c];
  }
  if (same) return;
  device_->synchronize();  // a copy may still be on its way
  for (size_t k = 0; k < channels.size(); ++k) {
    const auto c = static_cast<size_t>(channels[k]);
    mean_.host()[k] = mean[c];
    inverseStd_.host()[k] = 1.0f / std[c];
  }
  mean_.upload();
  inverseStd_.upload();
}

}  // namespace ddad
