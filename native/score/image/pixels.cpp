#include "score/image/pixels.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/cancel.h"
#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace {

constexpr int64_t kTileUnit = 16;  // no network pads such a tile much

/// Index of a mirrored line of n pixels: ... 2 1 | 0 1 ... n-1 | n-2 ...
int64_t mirror(int64_t i, int64_t n) {
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1);
  i = ((i % period) + period) % period;
  return i < n ? i : period - i;
}

template <class T>
void normalizeAs(const PixelView& r, const Tile& tile, int64_t height, int64_t width, float scale, float* out) {
  const auto* data = static_cast<const T*>(r.data);
  for (int64_t y = 0; y < height; ++y) {
    const int64_t row = mirror(tile.y + y, r.height);
    for (int64_t x = 0; x < width; ++x) {
      const T* from = data + (row * r.width + mirror(tile.x + x, r.width)) * r.channels;
      for (int64_t c = 0; c < r.channels; ++c) *out++ = static_cast<float>(from[c]) * scale - 1.0f;
    }
  }
}

struct Cut {
  int64_t size;
  std::vector<int64_t> starts;
};

/// As few pieces as a length of `tile` allows, and then no longer than they must be.
Cut cut(int64_t length, int64_t tile, int64_t overlap) {
  if (length <= tile) return {length, {0}};
  const int64_t count = (length - overlap + (tile - overlap) - 1) / (tile - overlap);
  const int64_t even = (length + (count - 1) * overlap + count - 1) / count;
  Cut pieces{std::min(tile, (even + kTileUnit - 1) / kTileUnit * kTileUnit), {}};
  for (int64_t i = 0; i < count; ++i) pieces.starts.push_back(i * (length - pieces.size) / (count - 1));
  return pieces;
}

/// Sorts the first n, largest first, in pieces between which an abort is seen: there may be 100 million.
void sortLargest(std::vector<float>& values, size_t n) {
  constexpr size_t kPiece = size_t{1} << 22;
  const auto at = [&](size_t i) { return values.begin() + static_cast<std::ptrdiff_t>(std::min(i, n)); };
  for (size_t i = 0; i < n; i += kPiece) {
    checkCancelled();
    std::sort(at(i), at(i + kPiece), std::greater<>());
  }
  for (size_t length = kPiece; length < n; length *= 2)
    for (size_t i = 0; i + length < n; i += 2 * length) {
      checkCancelled();
      std::inplace_merge(at(i), at(i + length), at(i + 2 * length), std::greater<>());
    }
}

}  // namespace

std::vector<Tile> planTiles(int64_t width, int64_t height, int64_t tile, int64_t overlap) {
  const Cut columns = cut(width, tile, overlap), rows = cut(height, tile, overlap);
  std::vector<Tile> tiles;
  for (int64_t y : rows.starts)
    for (int64_t x : columns.starts) tiles.push_back({x, y, columns.size, rows.size});
  return tiles;
}

void normalizePixels(const PixelView& image, const Tile& tile, int64_t height, int64_t width, float* out) {
  switch (image.type) {
    case PixelType::kU8:
      return normalizeAs<uint8_t>(image, tile, height, width, 2.0f / 255.0f, out);
    case PixelType::kU16:
      return normalizeAs<uint16_t>(image, tile, height, width, 2.0f / 65535.0f, out);
    case PixelType::kF32:
      return normalizeAs<float>(image, tile, height, width, 2.0f, out);
  }
}

std::vector<float> blendWeights(int64_t size, int64_t overlap, bool before, bool after) {
  std::vector<float> weights(static_cast<size_t>(size), 1.0f);
  for (int64_t i = 0; i < std::min(overlap, size); ++i) {
    const float ramp = (static_cast<float>(i) + 0.5f) / static_cast<float>(overlap);
    if (before) weights[static_cast<size_t>(i)] *= ramp;
    if (after) weights[static_cast<size_t>(size - 1 - i)] *= ramp;
  }
  return weights;
}

void gaussianBlur(int threads, std::vector<float>& map, int64_t width, int64_t height, double sigma) {
  if (sigma <= 0) return;
  const auto radius = static_cast<int64_t>(std::ceil(3 * sigma));
  std::vector<float> kernel;
  double total = 0;
  for (int64_t i = -radius; i <= radius; ++i) total += std::exp(-0.5 * static_cast<double>(i * i) / (sigma * sigma));
  for (int64_t i = -radius; i <= radius; ++i)
    kernel.push_back(static_cast<float>(std::exp(-0.5 * static_cast<double>(i * i) / (sigma * sigma)) / total));
  const auto add = DDAD_DISPATCH(scaleInto);
  const auto taps = static_cast<int64_t>(kernel.size()), padded = width + 2 * radius;
  std::vector<float> rows(map.size()), lines(static_cast<size_t>(threads * padded));
  parallelForWorker(threads, height, [&](int64_t y, int worker) {
    float* line = lines.data() + worker * padded;
    for (int64_t x = 0; x < padded; ++x) line[x] = map[static_cast<size_t>(y * width + mirror(x - radius, width))];
    for (int64_t i = 0; i < taps; ++i)
      add(rows.data() + y * width, line + i, width, kernel[static_cast<size_t>(i)], i > 0);
  });
  parallelFor(threads, height, [&](int64_t y) {
    for (int64_t i = 0; i < taps; ++i)
      add(map.data() + y * width, rows.data() + mirror(y + i - radius, height) * width, width,
          kernel[static_cast<size_t>(i)], i > 0);
  });
}

double meanOfLargest(std::vector<float> values, int64_t count) {
  const auto n = static_cast<size_t>(std::clamp<int64_t>(count, 1, static_cast<int64_t>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(n - 1), values.end(), std::greater<>());
  // sorted, so that the sum does not depend on how the selection left them
  sortLargest(values, n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]);
  return sum / static_cast<double>(n);
}

}  // namespace ddad
