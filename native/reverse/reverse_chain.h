#pragma once
// The reverse process (2)(3) of a batch of images, compiled once for its size: from pure noise (a sample) or from
// images noised to a step of the chain (a reconstruction).
#include <cstdint>
#include <vector>

#include "graph/plan.h"
#include "noise/noising.h"
#include "noise/schedule.h"
#include "unet/unet.h"

namespace ddad {

/// How a chain runs.
struct ReverseSettings {
  Schedule schedule;  // may be respaced
  int start = 0;      // index of the first step in that schedule; the last is 0
  bool ddim = false;  // DDIM, else DDPM
  double eta = 0;     // of DDIM: 0 adds no noise, 1 as much as DDPM with the posterior's variance
  bool clip = true;   // xhat0 to [-1, 1]
  uint64_t seed = 0;
};

class ReverseChain {
 public:
  /// Everything must outlive the chain. Throws ERR_CONFIG where the size does not fit the network, ERR_ARGUMENT where
  /// `start` is no step of the schedule.
  ReverseChain(const Device& device, const UNet& net, ParameterBlock& parameters, ReverseSettings settings,
               int64_t images, int64_t height, int64_t width, PlanMemory* memory = nullptr);

  /// x of image i, [height, width, channels], on the host: x_0 that the caller fills in before startFromImages, or
  /// before denoise and upload; after download what the chain has come to.
  float* image(int64_t i) { return x_.host() + i * batch_.elements(); }
  /// Brings all images to the device, where startFromImages has not to.
  void upload() { x_.upload(); }
  /// Brings what the chain has come to to the host.
  void download();
  /// x of image i in the device's memory.
  float* imageOnDevice(int64_t i) { return x_.device() + i * batch_.elements(); }
  void setLabel(int64_t i, int label) { labels_[static_cast<size_t>(i)] = label; }

  /// Standard normal noise at the first step; `samples[i]` is the place of image i in the random stream: the same seed
  /// and sample give the same noise, however the batch is split. `given` [images, height, width, channels], on the
  /// device, replaces it.
  void startFromNoise(const uint32_t* samples, const float* noise = nullptr);
  /// The images noised to the first step, equation (1); likewise.
  void startFromImages(const uint32_t* samples, const float* noise = nullptr);

  /// Steps that are left.
  int left() const { return left_; }
  /// One step, its noise z given or drawn. Allocates nothing. Throws ERR_NUMERIC where the network's output is not
  /// finite.
  void step(const Cancel& cancel, const float* z = nullptr);
  /// x <- mu_theta(x) at a step of the schedule, whatever the chain has come to.
  void denoise(int step, const Cancel& cancel);

  int64_t bytes() const { return x_.bytes() + plan_.activationBytes(); }

 private:
  void network(int step, const Cancel& cancel);
  void begin(const uint32_t* samples, const float* noise);
  NoiseSource* sources(uint32_t step, const float* noise);

  const Device& device_;
  const UNet& net_;
  const ReverseSettings settings_;
  const ImageBatch batch_;
  std::vector<StepCoefficients> coefficients_;  // of the current step, an image each
  std::vector<DdimCoefficients> ddim_;
  std::vector<NoiseSource> noise_;
  std::vector<uint32_t> samples_;
  std::vector<int> labels_;
  Mirrored<float> x_, t_, y_;  // t and y: what the network is told, an image each
  Mirrored<int32_t> nonFinite_;
  Plan plan_;
  int left_ = 0;
};

}  // namespace ddad
