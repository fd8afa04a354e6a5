// The ops of the CPU.
#include <algorithm>
#include <cmath>

#include "base/bf16.h"
#include "graph/device_ops.h"
#include "ops/attention/attention.h"
#include "ops/conv/conv.h"
#include "ops/depthwise/depthwise.h"
#include "ops/embedding/embedding.h"
#include "ops/group_norm/group_norm.h"
#include "ops/linear/linear.h"
#include "ops/resample/resample.h"
#include "ops/squeeze_excite/squeeze_excite.h"

namespace ddad {
namespace {

class CpuOps final : public DeviceOps {
 public:
  std::unique_ptr<Op> makeConv(OpContext context) const override { return ddad::makeConv(std::move(context)); }
  std::unique_ptr<Op> makeDepthwiseConv(OpContext context) const override {
    return ddad::makeDepthwiseConv(std::move(context));
  }
  std::unique_ptr<Op> makeGroupNorm(OpContext context) const override {
    return ddad::makeGroupNorm(std::move(context));
  }
  std::unique_ptr<Op> makeLinear(OpContext context) const override { return ddad::makeLinear(std::move(context)); }
  std::unique_ptr<Op> makeTimestepEmbedding(OpContext context) const override {
    return ddad::makeTimestepEmbedding(std::move(context));
  }
  std::unique_ptr<Op> makeLabelEmbedding(OpContext context) const override {
    return ddad::makeLabelEmbedding(std::move(context));
  }
  std::unique_ptr<Op> makeAttention(OpContext context) const override {
    return ddad::makeAttention(std::move(context));
  }
  std::unique_ptr<Op> makeResample(OpContext context) const override { return ddad::makeResample(std::move(context)); }
  std::unique_ptr<Op> makeSqueezeExcite(OpContext context) const override {
    return ddad::makeSqueezeExcite(std::move(context));
  }

  void toHalf(const Device&, const float* from, int64_t n, void* to) const override {
    std::transform(from, from + n, static_cast<Bf16*>(to), [](float x) { return fromFloat<Bf16>(x); });
  }
  void findNonFinite(const Device&, const float* x, int64_t n, int32_t* result) const override {
    if (!std::all_of(x, x + n, [](float v) { return std::isfinite(v); })) *result = 1;
  }
};

}  // namespace

const DeviceOps& cpuOps() {
  static const CpuOps ops;
  return ops;
}

}  // namespace ddad
