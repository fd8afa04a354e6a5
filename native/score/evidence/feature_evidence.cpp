#include "score/evidence/feature_evidence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/bilinear.h"
#include "base/error.h"
#include "device/device_buffer.h"
#include "device/parallel.h"
#include "graph/plan.h"

namespace ddad {
namespace {

constexpr int64_t kGridStride = 8;

/// Sums over 3x3 cells of [height, width, channels], over 9: beyond the border there are zeros.
void meansOf3x3(const Device& device, const float* from, int64_t height, int64_t width, int64_t channels, float* to) {
  parallelFor(device.threads(), height, [&](int64_t y) {
    const int64_t y0 = std::max<int64_t>(0, y - 1), y1 = std::min(height - 1, y + 1);
    for (int64_t x = 0; x < width; ++x) {
      const int64_t x0 = std::max<int64_t>(0, x - 1), x1 = std::min(width - 1, x + 1);
      float* out = to + (y * width + x) * channels;
      std::fill_n(out, channels, 0.0f);
      for (int64_t v = y0; v <= y1; ++v)
        for (int64_t u = x0; u <= x1; ++u) {
          const float* in = from + (v * width + u) * channels;
          for (int64_t c = 0; c < channels; ++c) out[c] += in[c];
        }
      for (int64_t c = 0; c < channels; ++c) out[c] *= 1.0f / 9.0f;
    }
  });
}

/// Means over squares of `by` cells.
void reduceCells(const float* from, int64_t width, int64_t channels, int64_t by, int64_t rows, int64_t columns,
                 int64_t toChannels, float* to) {
  const float share = 1.0f / static_cast<float>(by * by);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      float* out = to + (y * columns + x) * toChannels;
      std::fill_n(out, channels, 0.0f);
      for (int64_t v = 0; v < by; ++v)
        for (int64_t u = 0; u < by; ++u) {
          const float* in = from + ((y * by + v) * width + x * by + u) * channels;
          for (int64_t c = 0; c < channels; ++c) out[c] += in[c] * share;
        }
    }
}

void enlargeCells(const Device& device, const float* from, int64_t height, int64_t width, int64_t channels,
                  int64_t rows, int64_t columns, int64_t toChannels, float* to) {
  parallelFor(device.threads(), rows, [&](int64_t row) {
    const BilinearPlace y = bilinearPlace(row, height, rows);
    for (int64_t column = 0; column < columns; ++column) {
      const BilinearPlace x = bilinearPlace(column, width, columns);
      const float *a = from + (y.low * width + x.low) * channels, *b = from + (y.low * width + x.high) * channels,
                  *d = from + (y.high * width + x.low) * channels, *e = from + (y.high * width + x.high) * channels;
      float* out = to + (row * columns + column) * toChannels;
      for (int64_t c = 0; c < channels; ++c) out[c] = bilinearValue(a[c], b[c], d[c], e[c], x.fraction, y.fraction);
    }
  });
}

}  // namespace

EvidenceLayout::EvidenceLayout(const FeatureSource& source) {
  for (const Backbone::Tap& tap : source.backbone.taps) {
    const int64_t stride = int64_t{1} << tap.level;
    if (stride < 4) continue;
    parts.push_back({tap.tensor, stride, tap.channels, channels});
    channels += tap.channels;
  }
}

std::pair<int64_t, int64_t> EvidenceLayout::range(const std::vector<int64_t>& strides) const {
  int64_t first = -1, count = 0;
  size_t matched = 0;
  for (const Part& part : parts) {
    if (std::find(strides.begin(), strides.end(), part.stride) == strides.end()) continue;
    if (first < 0) first = part.offset;
    count += part.channels;
    ++matched;
  }
  if (matched != strides.size())
    throw Error("ERR_CONFIG", "score.evidence.banks: expected strides that the backbone has taps at");
  return {first, count};
}

EvidenceTile::EvidenceTile(const Device& device, FeatureExtractor& extractor, const EvidenceLayout& layout,
                           int64_t placeStride) {
  Plan& plan = extractor.plan();
  const Shape& image = plan.shape(extractor.source().backbone.input);
  rows = image.h / kGridStride;
  columns = image.w / kGridStride;
  features.resize(static_cast<size_t>(rows * columns * layout.channels));
  statistics.resize(static_cast<size_t>(2 * layout.channels));
  DownloadBuffer host;
  std::vector<float> means;
  for (const EvidenceLayout::Part& part : layout.parts) {
    const Shape& shape = plan.shape(part.tensor);
    const int64_t h = shape.h, w = shape.w, c = part.channels;
    const float* values = host.download(device, plan.value(part.tensor), h * w * c);
    for (int64_t i = 0; i < c; ++i) {
      double sum = 0, squares = 0;
      for (int64_t p = 0; p < h * w; ++p) {
        const auto v = static_cast<double>(values[p * c + i]);
        sum += v;
        squares += v * v;
      }
      const double n = static_cast<double>(h * w), mean = sum / n;
      statistics[static_cast<size_t>(part.offset + i)] = static_cast<float>(mean);
      statistics[static_cast<size_t>(layout.channels + part.offset + i)] =
          static_cast<float>(std::sqrt(std::max(0.0, squares / n - mean * mean)));
    }
    means.resize(static_cast<size_t>(h * w * c));
    meansOf3x3(device, values, h, w, c, means.data());
    if (part.stride == placeStride) {
      places = means;
      placeRows = h;
      placeColumns = w;
    }
    float* to = features.data() + part.offset;
    if (part.stride <= kGridStride)
      reduceCells(means.data(), w, c, kGridStride / part.stride, rows, columns, layout.channels, to);
    else
      enlargeCells(device, means.data(), h, w, c, rows, columns, layout.channels, to);
  }
}

int64_t FeatureEvidence::bytes() const {
  int64_t bytes =
      static_cast<int64_t>((mean.size() + std.size() + 2 * image.mean.size() + image.whitening.size()) * sizeof(float));
  for (const ResidualMemory& bank : banks) bytes += bank.bytes();
  return bytes + (places ? places->bytes() : 0);
}

GaussianShape placeShape(int64_t cells, int64_t channels) {
  GaussianShape shape;
  shape.dims.resize(static_cast<size_t>(channels));
  std::iota(shape.dims.begin(), shape.dims.end(), 0);
  shape.gridHeight = cells;
  shape.gridWidth = 1;
  return shape;
}

std::vector<float> placeDistances(const Device& device, const FeatureGaussian& places,
                                  const std::vector<float>& features) {
  const int64_t cells = places.shape.groups();
  if (static_cast<int64_t>(features.size()) != cells * places.shape.size())
    throw Error("ERR_MODEL_FORMAT", "evidence: expected Gaussians of " +
                                        std::to_string(static_cast<int64_t>(features.size()) / places.shape.size()) +
                                        " places, got " + std::to_string(cells));
  Mirrored<float> from(device, static_cast<int64_t>(features.size())), to(device, cells);
  std::copy(features.begin(), features.end(), from.host());
  from.upload();
  mahalanobis(device, places, from.device(), 1, cells, to.device(), nullptr, nullptr);
  to.download();
  device.synchronize();
  return {to.host(), to.host() + cells};
}

}  // namespace ddad
