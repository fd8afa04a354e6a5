#include "score/gaussian_fitter.h"

#include <algorithm>

#include "base/error.h"
#include "file/json_fields.h"

namespace ddad {
namespace {

std::vector<int32_t> channelsOf(const ScoreModel& model, const nlohmann::json& options, uint64_t seed) {
  if (!model.features())
    throw Error("ERR_CONFIG", "features: expected a model with features, which a Gaussian is over; got one without");
  const int64_t all = model.features()->channels();
  return chooseChannels(seed, all, std::min(all, integerField(options, "channels", 1, 4096)));
}

uint64_t seedOf(const nlohmann::json& options) {
  return static_cast<uint64_t>(integerField(options, "seed", 0, int64_t{1} << 53, 0));
}

}  // namespace

GaussianFitter::GaussianFitter(std::shared_ptr<const Device> device, ScoreModel& model, const nlohmann::json& options)
    : device_(std::move(device)),
      model_(model),
      pooled_(booleanField(options, "pooled", false)),
      seed_(seedOf(options)),
      dims_(channelsOf(model, options, seed_)) {}

FeaturePass& GaussianFitter::passFor(const Tile& tile) {
  if (!pass_ || !pass_->fits(tile)) pass_.emplace(*device_, model_, dims_, tile.height, tile.width);
  return *pass_;
}

void GaussianFitter::add(const ScoreRequest& request, const Cancel& cancel) {
  model_.checkRequest(request);
  const Tile whole = {0, 0, request.width, request.height};
  // places of a texture are all alike, so an image of any size is so many tiles
  const std::vector<Tile> tiles =
      pooled_ ? planTiles(request.width, request.height, model_.config().tile, 0) : std::vector<Tile>{whole};
  for (const Tile& tile : tiles) {
    FeaturePass& pass = passFor(tile);
    if (!fit_) fit_.emplace(GaussianShape{dims_, pooled_ ? 0 : pass.gridHeight(), pooled_ ? 0 : pass.gridWidth()});
    if (!pooled_) checkGrid(fit_->shape(), 4 * pass.gridHeight(), 4 * pass.gridWidth());
    pass.extract(request, tile, cancel);
    const auto d = static_cast<int64_t>(dims_.size());
    if (!pooled_) {
      fit_->add(*device_, pass.features(), pass.gridHeight() * pass.gridWidth());
      continue;
    }
    std::vector<float> inside;
    for (int64_t y = 0; y < pass.rows(); ++y) {
      const float* row = pass.features() + y * pass.gridWidth() * d;
      inside.insert(inside.end(), row, row + pass.columns() * d);
    }
    fit_->add(*device_, inside.data(), pass.rows() * pass.columns());
  }
  images_ += 1;
}

std::shared_ptr<const FeatureGaussian> GaussianFitter::finish() const {
  if (!fit_) throw Error("ERR_NUMERIC", "a Gaussian needs at least 2 good images, got 0");
  return fit_->finish(*device_);
}

nlohmann::json GaussianFitter::describe() const {
  nlohmann::json grid;
  if (!pooled_) grid = {fit_->shape().gridHeight, fit_->shape().gridWidth};
  return {{"channels", dims_}, {"grid", grid}, {"seed", seed_}, {"images", images_}};
}

}  // namespace ddad
