#pragma once
// Bilinear resizing of maps, corners not aligned.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bilinear.h"

namespace ddad {

/// Resizes maps [height, width] to [outHeight, outWidth]; allocates nothing after construction.
class BilinearResize {
 public:
  BilinearResize() = default;
  BilinearResize(int threads, int64_t width, int64_t height, int64_t outWidth, int64_t outHeight);
  void run(const float* from, float* to);

 private:
  /// Rows stretched to the new width, of one thread: the last two are kept, since neighbours in the result share them.
  struct Rows {
    std::vector<float> values;
    int64_t row[2] = {-1, -1};
    std::size_t last = 0;
  };
  const float* stretched(Rows& rows, const float* from, int64_t y) const;

  int threads_ = 1;
  int64_t width_ = 0, height_ = 0, outHeight_ = 0;
  std::vector<BilinearPlace> columns_;
  std::vector<Rows> workers_;
};

/// The same, once.
void resizeBilinear(int threads, const float* from, int64_t width, int64_t height, float* to, int64_t outWidth,
                    int64_t outHeight);

}  // namespace ddad
