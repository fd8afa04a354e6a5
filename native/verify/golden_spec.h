#pragma once
// What several kinds of golden files have in common.
#include <cstdint>
#include <vector>

#include "graph/plan.h"
#include "noise/schedule.h"
#include "unet/unet.h"
#include "verify/verify.h"

namespace ddad {

/// Strides of the backbone's taps that the spec names.
std::vector<int64_t> tapStrides(const VerifyContext& context);

/// The chain of the spec's schedule, diffusionSteps and respacing (null: every step).
Schedule specSchedule(const VerifyContext& context);

/// The network of the spec with the file's parameters.
struct GoldenNet {
  UNetConfig config;
  UNet net;
  ParameterBlock parameters;
};
GoldenNet goldenNet(const VerifyContext& context);

/// A tensor [n, c, h, w].
struct ImagesShape {
  int64_t n, c, h, w;
  int64_t pixels() const { return h * w; }
  int64_t elements() const { return c * h * w; }
  std::vector<int64_t> dims() const { return {n, c, h, w}; }
};
/// The shape of images of the network in the file.
ImagesShape imagesShape(const VerifyContext& context, const char* name, int64_t channels);

/// Images [count * n, c, h, w] of the file, whose shape has `count` in front where it is not 0, in the engine's layout.
std::vector<float> goldenImages(const VerifyContext& context, const char* name, const ImagesShape& shape,
                                int64_t count = 0);

/// Labels of the images; empty where the network has no classes.
std::vector<int32_t> goldenLabels(const VerifyContext& context, const UNetConfig& config, int64_t n);

}  // namespace ddad
