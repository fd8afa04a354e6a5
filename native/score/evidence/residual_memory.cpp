#include "score/evidence/residual_memory.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gemm/gemm.h"

namespace ddad {
namespace {

constexpr int64_t kBlock = 256;  // rows of the memory that are compared at once: they stay in the second cache
constexpr int64_t kChunk = 96;   // residuals that a thread takes at once

double squaredNorm(const float* v, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(v[i]) * static_cast<double>(v[i]);
  return sum;
}

}  // namespace

ResidualMemory::ResidualMemory(const float* rows, int64_t count, int64_t channels)
    : count_(count), channels_(channels), rows_(count * channels), squares_(count) {
  std::memcpy(rows_.data(), rows, static_cast<size_t>(rows_.bytes()));
  int64_t floats = 0;
  for (int64_t first = 0; first < count; first += kBlock)
    floats += gemmPackedSize(channels, std::min(kBlock, count - first));
  packed_ = AlignedBuffer(floats);
  float* to = packed_.data();
  for (int64_t first = 0; first < count; first += kBlock) {
    checkCancelled();
    const int64_t n = std::min(kBlock, count - first);
    gemmPack(rows + first * channels, 1, channels, channels, n, to);
    to += gemmPackedSize(channels, n);
  }
  for (int64_t i = 0; i < count; ++i)
    squares_.data()[i] = static_cast<float>(squaredNorm(rows + i * channels, channels));
}

void ResidualMemory::nearest(const Device& device, const float* residuals, int64_t n, float* distances,
                             const Cancel& cancel) const {
  const auto product = DDAD_DISPATCH(gemmRows);
  const auto smallest = DDAD_DISPATCH(smallestOf);
  std::vector<float> scratch(static_cast<size_t>(device.threads() * kChunk * kBlock));
  parallelForWorker(device.threads(), (n + kChunk - 1) / kChunk, [&](int64_t chunk, int worker) {
    if (cancel.requested()) return;
    const int64_t m0 = chunk * kChunk, m = std::min(kChunk, n - m0);
    const float* from = residuals + m0 * channels_;
    float* products = scratch.data() + worker * kChunk * kBlock;
    float* best = distances + m0;
    std::fill_n(best, m, std::numeric_limits<float>::infinity());
    const float* packed = packed_.data();
    for (int64_t first = 0; first < count_; first += kBlock) {
      const int64_t columns = std::min(kBlock, count_ - first);
      // |a - b|^2 = |a|^2 + (|b|^2 - 2 a b); |a|^2 does not change which row is nearest
      const GemmEpilogue epilogue = {squares_.data() + first, nullptr, 0, -2.0f, 0};
      product(matrixRows(from, channels_, m, channels_), 0, m, packed, columns, products, kBlock, epilogue);
      packed += gemmPackedSize(channels_, columns);
      for (int64_t i = 0; i < m; ++i) best[i] = smallest(products + i * kBlock, columns, best[i]);
    }
    for (int64_t i = 0; i < m; ++i) {
      const double squared = squaredNorm(from + i * channels_, channels_) + static_cast<double>(best[i]);
      best[i] = static_cast<float>(std::sqrt(squared < 0 ? 0 : squared));
    }
  });
  cancel.check();
}

void pooledResiduals(const Device& device, const float* predicted, const float* target, int64_t scales, int64_t height,
                     int64_t width, int64_t channels, float* scratch, float* out) {
  const int64_t row = width * channels;
  const float share = 1.0f / static_cast<float>(scales);
  parallelFor(device.threads(), height, [&](int64_t y) {
    float* mean = scratch + y * row;
    for (int64_t i = 0; i < row; ++i) {
      float sum = 0;
      for (int64_t s = 0; s < scales; ++s) sum += predicted[(s * height + y) * row + i];
      mean[i] = sum * share - target[y * row + i];
    }
  });
  parallelFor(device.threads(), height, [&](int64_t y) {
    const int64_t y0 = std::max<int64_t>(0, y - 1), y1 = std::min(height - 1, y + 1);
    for (int64_t x = 0; x < width; ++x) {
      const int64_t x0 = std::max<int64_t>(0, x - 1), x1 = std::min(width - 1, x + 1);
      float* to = out + y * row + x * channels;
      std::fill_n(to, channels, 0.0f);
      for (int64_t v = y0; v <= y1; ++v)
        for (int64_t u = x0; u <= x1; ++u) {
          const float* from = scratch + v * row + u * channels;
          for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
        }
      for (int64_t c = 0; c < channels; ++c) to[c] *= 1.0f / 9.0f;
    }
  });
}

}  // namespace ddad
