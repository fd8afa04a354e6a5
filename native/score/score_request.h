#pragma once
// What is asked about an image, and what comes of it.
#include <cstdint>
#include <exception>
#include <vector>

#include "base/cancel.h"
#include "score/image/pixel_view.h"

namespace ddad {

/// One image, with as many channels as the model has.
struct ScoreRequest : PixelView {
  int outWidth = 0, outHeight = 0;  // size of the map; 0: the image's own
  int label = -1;                   // class of a conditional model
  bool residuals = false;           // whether the result carries those of the features
  bool features = false;            // whether it carries what evidence is fitted on
  bool featuresOnly = false;        // that alone: no network, no maps, no score
  bool shareMaps = false;           // leaves out what is the same as the map (Scorer::mapSource) and has no place
  /// Where the maps of the result go, each of its size; where null, into the result itself.
  float *map = nullptr, *pixelMap = nullptr, *featureMap = nullptr;
};

struct ScoreResult {
  int width = 0, height = 0;
  std::vector<float> map;         // what the image is judged by: the ensemble (11) or another kind, row-major
  std::vector<float> pixelMap;    // shat (or the reconstruction error) averaged over the scales, smoothed like the map
  std::vector<float> featureMap;  // shat^f likewise; empty where the model has no features
  double score = 0;               // mean of the largest pixels of the map at the network's resolution
  /// Of one raw score of this image, a noise scale each: what calibration pools over images. std with n - 1.
  struct Statistics {
    std::vector<double> mean, std;
    int64_t elements = 0;  // values that these are over
  };
  Statistics pixel;    // the channel-mean KL in nats
  Statistics rgb;      // (x_0 - xhat0)^2, where nothing is normalised
  Statistics feature;  // the feature error on the stride-4 grid
  Statistics memory;   // the distance to the nearest known residual there, one for all scales; empty without a memory
  std::vector<Statistics> banks;  // of the distances to each bank of the evidence, as in `memory`
  /// What the score is made of, EvidenceConfig::names: the ensemble's score, then logarithms of distances; empty
  /// without evidence, or before it is fitted.
  std::vector<double> evidence;
  /// Where asked for: the residuals of the image's cells as setMemory takes them, [cells, channels].
  std::vector<float> residuals;
  /// Where features are asked for and the configuration has evidence: rows, of a large image some of them, and
  /// statistics as setEvidence takes them.
  std::vector<float> evidenceRows, evidenceStatistics;
  std::vector<float> evidencePlaces;  // as observePlaces takes them
  int64_t evidenceChannels = 0;
};

/// One image of a batch: what is asked, and what comes of it.
struct ScoreJob {
  ScoreRequest request;
  const Cancel* cancel = nullptr;
  ScoreResult result;
  std::exception_ptr error;  // set where there is no result
};

}  // namespace ddad
