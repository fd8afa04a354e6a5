#pragma once
// What residuals fhat - f good images have. Some normal structure is hard to predict (rare textures, edges), so the
// published score (10), the distance of a residual from zero, is high there too; the distance from the nearest
// residual that good images have is not. The search is that of PatchCore (Roth et al., 2022), over residuals.
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cancel.h"
#include "device/device.h"

namespace ddad {

class ResidualMemory {
 public:
  ResidualMemory() = default;
  /// rows [count, channels], copied.
  ResidualMemory(const float* rows, int64_t count, int64_t channels);

  int64_t count() const { return count_; }
  int64_t channels() const { return channels_; }
  /// [count, channels].
  const float* rows() const { return rows_.data(); }
  int64_t bytes() const { return rows_.bytes() + packed_.bytes() + squares_.bytes(); }

  /// The Euclidean distance from each of `n` residuals [n, channels] to the nearest row; the same for any number of
  /// threads.
  void nearest(const Device& device, const float* residuals, int64_t n, float* distances, const Cancel& cancel) const;

 private:
  int64_t count_ = 0, channels_ = 0;
  AlignedBuffer rows_, packed_, squares_;
};

/// The residual of an image averaged over its noise scales, then over 3x3 cells: `predicted` [scales, height, width,
/// channels] minus `target` [height, width, channels]. Beyond the border residuals are zero: there fewer cells average
/// less of the noise out, and with means over the cells inside alone borders stand out of good images (bench/accuracy).
/// `scratch` and `out` have the shape of `target`.
void pooledResiduals(const Device& device, const float* predicted, const float* target, int64_t scales, int64_t height,
                     int64_t width, int64_t channels, float* scratch, float* out);

}  // namespace ddad
