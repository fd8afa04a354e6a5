#pragma once
// Between the taps of a backbone and features on the stride-4 grid: chosen channels, resized bilinearly and normalised.
#include <cstdint>
#include <memory>
#include <vector>

#include "backbone/feature_functions.h"
#include "device/device_buffer.h"

namespace ddad {

/// Writes the chosen channels of `features` from `tap`; see TapResize.
void resizeTap(const Device& device, const TapResize& resize, const float* tap, float* features);

/// The transpose: adds the chosen channels' gradient to that of the tap.
void resizeTapBack(const Device& device, const TapResize& resize, const float* featureGradient, float* tapGradient);

/// A TapResize with the memory that it points to.
class TapSelection {
 public:
  /// Channel source[k] of the tap becomes channel place[k], both ascending. `shape`: images, inHeight, inWidth,
  /// inChannels, height, width and outChannels. Statistics are 0 and 1 at first.
  TapSelection(const Device& device, const TapResize& shape, const std::vector<int32_t>& source,
               const std::vector<int32_t>& place);

  /// Takes mean[channels[k]] and std[channels[k]] for the k-th channel; does nothing where they are those it has.
  void setStatistics(const std::vector<float>& mean, const std::vector<float>& std,
                     const std::vector<int32_t>& channels);

  const TapResize& resize() const { return resize_; }

 private:
  std::shared_ptr<const Device> device_;
  TapResize resize_;
  Mirrored<int32_t> source_, place_;
  Mirrored<float> mean_, inverseStd_;
};

}  // namespace ddad
