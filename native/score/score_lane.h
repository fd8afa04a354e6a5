#pragma once
// Scores one image at a time: tiles, passes, the maps put together. Lanes of one model can score side by side.
#include <list>
#include <memory>

#include "device/device.h"
#include "score/feature_pass.h"
#include "score/image/pixels.h"
#include "score/score_model.h"
#include "score/score_pass.h"
#include "score/score_request.h"

namespace ddad {

class ScoreLane {
 public:
  /// `packed`: where the lane may take packed weights from, those of another lane. The model must outlive the lane.
  ScoreLane(std::shared_ptr<const Device> device, ScoreModel& model, const ScoreMemory* packed = nullptr);

  /// See Scorer::score. The same image has the same result, bit for bit, on every lane.
  ScoreResult score(const ScoreRequest& request, const Cancel& cancel);
  /// Whether the image takes a single pass of the network.
  bool single(const ScoreRequest& request) const;
  /// Compiles what a single image of this size needs, so that lanes side by side need not.
  void prepare(const ScoreRequest& request);
  /// Forgets what was compiled; for when the configuration has changed.
  void clear() {
    passes_.clear();
    padim_.reset();
  }

  const ScoreMemory& memory() const { return memory_; }
  int64_t activationBytes() const;

 private:
  struct Gathered;

  std::vector<Tile> tilesOf(const ScoreRequest& request) const;
  ScorePass& passFor(const Tile& tile);
  /// Adds what a pass found in a tile.
  void gather(ScorePass& pass, const Tile& tile, const ScoreRequest& request, const ResidualMemory* memory,
              const Cancel& cancel, Gathered& all, ScoreResult& result) const;
  /// Adds what the features of a tile tell beside the residuals.
  void gatherEvidence(ScorePass& pass, const Tile& tile, const ScoreRequest& request, const Cancel& cancel,
                      Gathered& all, ScoreResult& result) const;
  void preparePadim(const Tile& tile, const FeatureGaussian* gaussian);
  /// Adds how far the features of a tile are from their Gaussian.
  void gatherPadim(const Tile& tile, const ScoreRequest& request, const Cancel& cancel, Gathered& all);
  /// The maps of the whole image, normalised, smoothed and combined.
  void combine(const ScoreRequest& request, Gathered& all, ScoreResult& result) const;
  /// What the score is made of; the map gains the distances of the evidence.
  void judge(const ScoreRequest& request, Gathered& all, ScoreResult& result) const;
  /// Brings a map to the size of the result, and to where it is wanted.
  void deliver(const ScoreRequest& request, std::vector<float>& map, float* to, const ScoreResult& result) const;
  /// Minus the mean, over the standard deviation of good images at each place, where the model tells places apart.
  void normalisePlaces(const PositionGrid& grid, const ScoreRequest& request, std::vector<float>& map) const;

  const std::shared_ptr<const Device> device_;
  ScoreModel& model_;
  ScoreMemory memory_;
  std::list<ScorePass> passes_;         // most recently used first
  std::unique_ptr<FeaturePass> padim_;  // where that is what images are judged by
};

}  // namespace ddad
