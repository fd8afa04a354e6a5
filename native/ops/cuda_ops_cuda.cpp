#include "ops/cuda_ops_cuda.h"

#include "ops/attention/attention.h"
#include "ops/conv/conv.h"
#include "ops/depthwise/depthwise.h"
#include "ops/elementwise/kernels_cuda.h"
#include "ops/embedding/embedding.h"
#include "ops/group_norm/group_norm.h"
#include "ops/linear/linear.h"
#include "ops/resample/resample.h"
#include "ops/squeeze_excite/squeeze_excite.h"

namespace ddad {
namespace {

class CudaOps final : public DeviceOps {
 public:
  std::unique_ptr<Op> makeConv(OpContext context) const override { return ddad::makeCudaConv(std::move(context)); }
  std::unique_ptr<Op> makeDepthwiseConv(OpContext context) const override {
    return ddad::makeCudaDepthwiseConv(std::move(context));
  }
  std::unique_ptr<Op> makeGroupNorm(OpContext context) const override {
    return ddad::makeCudaGroupNorm(std::move(context));
  }
  std::unique_ptr<Op> makeLinear(OpContext context) const override { return ddad::makeCudaLinear(std::move(context)); }
  std::unique_ptr<Op> makeTimestepEmbedding(OpContext context) const override {
    return ddad::makeCudaTimestepEmbedding(std::move(context));
  }
  std::unique_ptr<Op> makeLabelEmbedding(OpContext context) const override {
    return ddad::makeCudaLabelEmbedding(std::move(context));
  }
  std::unique_ptr<Op> makeAttention(OpContext context) const override {
    return ddad::makeCudaAttention(std::move(context));
  }
  std::unique_ptr<Op> makeResample(OpContext context) const override {
    return ddad::makeCudaResample(std::move(context));
  }
  std::unique_ptr<Op> makeSqueezeExcite(OpContext context) const override {
    return ddad::makeCudaSqueezeExcite(std::move(context));
  }

  void toHalf(const Device& device, const float* from, int64_t n, void* to) const override {
    toHalfCuda(cudaDevice(device), from, n, to);
  }
  void findNonFinite(const Device& device, const float* x, int64_t n, int32_t* result) const override {
    findNonFiniteCuda(cudaDevice(device), x, n, result);
  }
};

}  // namespace

const DeviceOps& cudaOps() {
  static const CudaOps ops;
  return ops;
}

}  // namespace ddad
