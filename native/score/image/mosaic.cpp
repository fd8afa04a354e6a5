#include "score/image/mosaic.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace ddad {

void Pooled::add(double n, double otherMean, double otherSquares) {
  const double delta = otherMean - mean, total = count + n;
  mean += delta * n / total;
  squares += otherSquares + delta * delta * count * n / total;
  count = total;
}

void Pooled::add(const float* values, int64_t rows, int64_t columns, int64_t stride) {
  double sum = 0, deviations = 0;
  const auto n = static_cast<double>(rows * columns);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) sum += static_cast<double>(values[y * stride + x]);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      const double d = static_cast<double>(values[y * stride + x]) - sum / n;
      deviations += d * d;
    }
  add(n, sum / n, deviations);
}

double Pooled::std() const { return count > 1 ? std::sqrt(squares / (count - 1)) : 0.0; }

Mosaic::Mosaic(int64_t width, int64_t height, int64_t overlap)
    : width_(width), height_(height), overlap_(overlap), map_(static_cast<size_t>(width * height)) {}

void Mosaic::add(const Tile& tile, const float* values, int64_t stride) {
  const auto wx = blendWeights(tile.width, overlap_, tile.x > 0, tile.x + tile.width < width_);
  const auto wy = blendWeights(tile.height, overlap_, tile.y > 0, tile.y + tile.height < height_);
  const bool whole = tile.width == width_ && tile.height == height_;
  if (!whole && weight_.empty()) weight_.resize(map_.size());
  for (int64_t y = 0; y < tile.height; ++y)
    for (int64_t x = 0; x < tile.width; ++x) {
      const auto at = static_cast<size_t>((tile.y + y) * width_ + tile.x + x);
      const float w = wx[static_cast<size_t>(x)] * wy[static_cast<size_t>(y)];
      map_[at] += w * values[y * stride + x];
      if (!whole) weight_[at] += w;
    }
}

std::vector<float> Mosaic::take() {
  for (size_t i = 0; i < weight_.size(); ++i) map_[i] /= weight_[i];
  if (!std::all_of(map_.begin(), map_.end(), [](float v) { return std::isfinite(v); }))
    throw Error("ERR_NUMERIC", "the network's output is not finite: the model's weights are damaged or diverged");
  return std::move(map_);
}

}  // namespace ddad
