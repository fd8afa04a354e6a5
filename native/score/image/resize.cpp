#include "score/image/resize.h"

#include <algorithm>

#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace {

constexpr int64_t kRows = 32;  // of the result that a thread makes at once

}  // namespace

BilinearResize::BilinearResize(int threads, int64_t width, int64_t height, int64_t outWidth, int64_t outHeight)
    : threads_(threads), width_(width), height_(height), outHeight_(outHeight) {
  for (int64_t x = 0; x < outWidth; ++x) columns_.push_back(bilinearPlace(x, width, outWidth));
  workers_.resize(static_cast<size_t>(threads));
  for (Rows& rows : workers_) rows.values.resize(2 * columns_.size());
}

void BilinearResize::run(const float* from, float* to) {
  const auto outWidth = static_cast<int64_t>(columns_.size());
  const auto mix = DDAD_DISPATCH(mixRows);
  for (Rows& rows : workers_) rows.row[0] = rows.row[1] = -1;  // those of another map
  parallelForWorker(threads_, (outHeight_ + kRows - 1) / kRows, [&](int64_t block, int worker) {
    Rows& rows = workers_[static_cast<size_t>(worker)];
    for (int64_t y = block * kRows; y < std::min(outHeight_, (block + 1) * kRows); ++y) {
      const BilinearPlace place = bilinearPlace(y, height_, outHeight_);
      const float* upper = stretched(rows, from, place.low);
      mix(to + y * outWidth, upper, stretched(rows, from, place.high), outWidth, place.fraction);
    }
  });
}

/// Row y at the new width; valid until the next call but one.
const float* BilinearResize::stretched(Rows& rows, const float* from, int64_t y) const {
  const bool known = rows.row[0] == y || rows.row[1] == y;
  rows.last = known ? (rows.row[0] == y ? 0 : 1) : 1 - rows.last;
  float* values = rows.values.data() + rows.last * columns_.size();
  if (known) return values;
  rows.row[rows.last] = y;
  const float* row = from + y * width_;
  for (size_t x = 0; x < columns_.size(); ++x) {
    const BilinearPlace& column = columns_[x];
    values[x] = row[column.low] + (row[column.high] - row[column.low]) * column.fraction;
  }
  return values;
}

void resizeBilinear(int threads, const float* from, int64_t width, int64_t height, float* to, int64_t outWidth,
                    int64_t outHeight) {
  BilinearResize(threads, width, height, outWidth, outHeight).run(from, to);
}

}  // namespace ddad
