#pragma once
// The features of a tile of an image as the UNet sees it, from pixels.
#include <vector>

#include "backbone/feature_distance.h"
#include "score/image/pixels.h"
#include "score/score_model.h"
#include "score/score_request.h"

namespace ddad {

/// Pixels of a tile to x_0 as the UNet sees it, [height, width, channels] in [-1, 1]: beyond the image mirrored,
/// reduced by `scale`. `fine` holds the tile before that, where scale > 1.
void loadTile(const ScoreRequest& request, const Tile& tile, int64_t height, int64_t width, int64_t scale,
              AlignedBuffer& fine, float* to);

/// Length of an image's side in pixels that the UNet sees, and that after padding: what the network and, where it is
/// wanted, the backbone can take.
struct PaddedSide {
  int64_t cells, padded;
};
PaddedSide paddedSide(const ScoreModel& model, int64_t pixels, bool withBackbone);

class FeaturePass {
 public:
  /// For tiles of this size in pixels of the image.
  FeaturePass(const Device& device, ScoreModel& model, std::vector<int32_t> dims, int64_t height, int64_t width);

  bool fits(const Tile& tile) const { return tile.height == tileHeight_ && tile.width == tileWidth_; }
  /// The features of a tile; see FeatureDistance.
  void extract(const ScoreRequest& request, const Tile& tile, const Cancel& cancel);
  /// The distances of a tile, resized to `to` [stride() * padded height, stride() * padded width].
  void distances(const FeatureGaussian& gaussian, const ScoreRequest& request, const Tile& tile, float* to,
                 const Cancel& cancel);

  const float* features() { return distance_.features(); }
  int64_t gridHeight() const { return distance_.gridHeight(); }
  int64_t gridWidth() const { return distance_.gridWidth(); }
  /// Positions of the grid that lie in the tile, not in its padding.
  int64_t rows() const { return (height_.cells + 3) / 4; }
  int64_t columns() const { return (width_.cells + 3) / 4; }
  int64_t imageHeight() const { return height_.padded * scale_; }
  int64_t imageWidth() const { return width_.padded * scale_; }
  int64_t bytes() const { return fine_.bytes() + pixels_.bytes() + distance_.bytes(); }

 private:
  const Device& device_;
  const int64_t tileHeight_, tileWidth_, scale_, channels_;
  const PaddedSide height_, width_;
  AlignedBuffer fine_;
  Mirrored<float> pixels_;
  FeatureDistance distance_;
};

}  // namespace ddad
