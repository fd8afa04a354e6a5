#pragma once
// Between pixels and the network: normalisation, padding, tiles, smoothing, the image score.
#include <cstdint>
#include <vector>

#include "score/image/pixel_view.h"

namespace ddad {

/// A rectangle of an image.
struct Tile {
  int64_t x, y, width, height;
};

/// The image whole where it fits `tile`, otherwise tiles of one size, that or less, that overlap by at least `overlap`,
/// row by row.
std::vector<Tile> planTiles(int64_t width, int64_t height, int64_t tile, int64_t overlap);

/// Pixels of a tile to [-1, 1], [height, width, channels]; beyond the image it is mirrored (pixel / 127.5 - 1).
void normalizePixels(const PixelView& image, const Tile& tile, int64_t height, int64_t width, float* out);

/// Weight of each position along one axis of a tile: a ramp over `overlap` where a neighbour takes over.
std::vector<float> blendWeights(int64_t size, int64_t overlap, bool before, bool after);

/// Gaussian blur in place, mirrored at the borders; sigma in pixels.
void gaussianBlur(int threads, std::vector<float>& map, int64_t width, int64_t height, double sigma);

/// Mean of the `count` largest values (all of them where there are fewer).
double meanOfLargest(std::vector<float> values, int64_t count);

}  // namespace ddad
