#include "ops/elementwise/elementwise.h"

#include <algorithm>

#include "device/parallel.h"

namespace ddad {

void sumColumns(int threads, const float* x, int64_t rows, int64_t channels, float* partials, float* out) {
  const int64_t chunks = (rows + kSumRows - 1) / kSumRows;
  const auto sums = DDAD_DISPATCH(columnSums);
  parallelFor(threads, chunks, [&](int64_t i) {
    sums(x + i * kSumRows * channels, std::min(kSumRows, rows - i * kSumRows), channels, channels,
         partials + i * channels);
  });
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0;
    for (int64_t i = 0; i < chunks; ++i) total += static_cast<double>(partials[i * channels + c]);
    out[c] = static_cast<float>(total);
  }
}

}  // namespace ddad
