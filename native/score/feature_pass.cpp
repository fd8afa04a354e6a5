#include "score/feature_pass.h"

#include <numeric>

#include "base/error.h"
#include "score/image/resize.h"

namespace ddad {
namespace {

FeatureSource& featuresOf(ScoreModel& model) {
  if (FeatureSource* features = model.features()) return *features;
  throw Error("ERR_CONFIG", "features: expected a model with features, which a Gaussian is over");
}

int64_t scaleOf(const ScoreModel& model) { return model.features() ? model.features()->scale : 1; }

}  // namespace

void loadTile(const ScoreRequest& request, const Tile& tile, int64_t height, int64_t width, int64_t scale,
              AlignedBuffer& fine, float* to) {
  if (scale == 1) return normalizePixels(request, tile, height, width, to);
  normalizePixels(request, tile, height * scale, width * scale, fine.data());
  reduceImages(fine.data(), 1, height, width, request.channels, scale, to);
}

PaddedSide paddedSide(const ScoreModel& model, int64_t pixels, bool withBackbone) {
  const int64_t scale = scaleOf(model), cells = (pixels + scale - 1) / scale;
  const int64_t unit =
      std::lcm(int64_t{1} << model.net().graph.maxLevel(), withBackbone ? model.features()->unit() : 1);
  return {cells, (cells + unit - 1) / unit * unit};
}

FeaturePass::FeaturePass(const Device& device, ScoreModel& model, std::vector<int32_t> dims, int64_t height,
                         int64_t width)
    : device_(device),
      tileHeight_(height),
      tileWidth_(width),
      scale_(featuresOf(model).scale),
      channels_(model.config().unet.inChannels),
      height_(paddedSide(model, height, true)),
      width_(paddedSide(model, width, true)),
      fine_(scale_ > 1 ? imageHeight() * imageWidth() * channels_ : 0),
      pixels_(device, height_.padded * width_.padded * channels_),
      distance_(device, *model.features(), std::move(dims), 1, height_.padded, width_.padded, false) {}

void FeaturePass::extract(const ScoreRequest& request, const Tile& tile, const Cancel& cancel) {
  loadTile(request, tile, height_.padded, width_.padded, scale_, fine_, pixels_.host());
  pixels_.upload();
  distance_.extract(pixels_.device(), channels_, cancel);
}

void FeaturePass::distances(const FeatureGaussian& gaussian, const ScoreRequest& request, const Tile& tile, float* to,
                            const Cancel& cancel) {
  loadTile(request, tile, height_.padded, width_.padded, scale_, fine_, pixels_.host());
  pixels_.upload();
  distance_.run(gaussian, pixels_.device(), channels_, cancel);
  resizeBilinear(device_.threads(), distance_.distances(0), gridWidth(), gridHeight(), to, imageWidth(), imageHeight());
}

}  // namespace ddad
