#pragma once
// Whole maps and statistics of an image, put together from those of its tiles.
#include <cstdint>
#include <vector>

#include "score/image/pixels.h"

namespace ddad {

/// Mean and variance gathered from parts (Chan et al.).
struct Pooled {
  double count = 0, mean = 0, squares = 0;

  void add(double n, double otherMean, double otherSquares);
  /// Adds the values of a window [rows, columns] of a map whose rows are `stride` apart.
  void add(const float* values, int64_t rows, int64_t columns, int64_t stride);
  /// With n - 1.
  double std() const;
};

/// A whole map put together from tiles that overlap.
class Mosaic {
 public:
  Mosaic(int64_t width, int64_t height, int64_t overlap);
  /// Adds a tile whose values are in rows of `stride`.
  void add(const Tile& tile, const float* values, int64_t stride);
  /// The finished map; ERR_NUMERIC where it is not finite.
  std::vector<float> take();

 private:
  int64_t width_, height_, overlap_;
  std::vector<float> map_, weight_;
};

}  // namespace ddad
