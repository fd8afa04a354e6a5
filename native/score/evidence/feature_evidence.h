#pragma once
// Evidence from the backbone alone: the distance of an image's features to the nearest that good images have, patch by
// patch (PatchCore, Roth et al. 2022), and of their statistics over the whole image from a Gaussian of those of good
// images. It sees what the diffusion predicts well although no good image has it.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "backbone/features.h"
#include "backbone/gaussian.h"
#include "score/evidence/evidence_config.h"
#include "score/evidence/residual_memory.h"

namespace ddad {

/// The taps of a backbone at stride 4 and deeper, whose channels lie side by side.
struct EvidenceLayout {
  explicit EvidenceLayout(const FeatureSource& source);

  struct Part {
    TensorId tensor;
    int64_t stride, channels, offset;
  };
  std::vector<Part> parts;  // fine to coarse
  int64_t channels = 0;

  /// First channel and number of channels of the taps at neighbouring strides. Throws ERR_CONFIG for one that is
  /// missing.
  std::pair<int64_t, int64_t> range(const std::vector<int64_t>& strides) const;
};

/// A Gaussian of vectors, as what brings them to mean 0 and covariance I.
struct WholeGaussian {
  std::vector<float> mean, std;  // of each value
  std::vector<float> whitening;  // [size, size], lower triangular, of the values over `std`
  int64_t size() const { return static_cast<int64_t>(mean.size()); }
  /// The Mahalanobis distance.
  double distance(const std::vector<float>& values) const;
  /// Of rows [count, size]: the covariance of the values over their deviations, shrunk towards a multiple of I as much
  /// as the number of rows asks for (Ledoit and Wolf, 2004).
  static WholeGaussian fit(const float* rows, int64_t count, int64_t size, const Cancel& cancel);
};

/// What the good images of a label look like to the backbone.
struct FeatureEvidence {
  std::vector<float> mean, std;       // of each channel of the layout
  std::vector<ResidualMemory> banks;  // of features over their deviations; the channels of a bank's taps
  WholeGaussian image;                // empty where whole images are not compared
  /// Of the tap at EvidenceConfig::placeStride, one for each cell of its grid (PaDiM, Defard et al. 2021); null for
  /// none.
  std::shared_ptr<const FeatureGaussian> places;

  int64_t bytes() const;
};

/// `rows` [count, layout.channels] of good images, `images` [imageCount, 2 layout.channels] their statistics. Each bank
/// keeps at most `keep` rows, those that cover the rest best.
FeatureEvidence fitEvidence(const Device& device, const EvidenceConfig& config, const EvidenceLayout& layout,
                            const std::vector<float>& rows, const std::vector<float>& images, int64_t keep,
                            const Cancel& cancel);

/// Gaussians for each of `cells` places, over all of `channels` features.
GaussianShape placeShape(int64_t cells, int64_t channels);
/// The Mahalanobis distance of each place's features [cells, channels] from its Gaussian. Throws ERR_MODEL_FORMAT where
/// the Gaussians are of another grid.
std::vector<float> placeDistances(const Device& device, const FeatureGaussian& places,
                                  const std::vector<float>& features);

/// Indices of `keep` of rows [count, size], ascending, such that no row is far from its nearest: greedy k-center, over
/// a random projection (of 48 values, the same for every call). The same for any number of threads.
std::vector<int64_t> coverage(const Device& device, const float* rows, int64_t count, int64_t size, int64_t keep,
                              const Cancel& cancel);

/// The features of a tile on a grid of stride 8 of the image that the backbone sees.
class EvidenceTile {
 public:
  /// `placeStride`: of the tap whose own grid is wanted as well, 0 for none.
  EvidenceTile(const Device& device, FeatureExtractor& extractor, const EvidenceLayout& layout, int64_t placeStride);

  int64_t rows = 0, columns = 0;
  std::vector<float> features;    // [rows, columns, channels], means of 3x3 cells of a tap, zeros beyond the border
  std::vector<float> statistics;  // mean and standard deviation of each channel over the tile, [2 channels]
  std::vector<float> places;      // means of 3x3 cells of the tap at `placeStride`, [placeRows, placeColumns, channels]
  int64_t placeRows = 0, placeColumns = 0;
};

}  // namespace ddad
