#include "ops/op_functions_cuda.h"

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

std::unique_ptr<Op> compile(OpContext context) {
  switch (context.record->kind) {
    case OpKind::kConv:
      return makeCudaConv(std::move(context));
    case OpKind::kDepthwiseConv:
      return makeCudaDepthwiseConv(std::move(context));
    case OpKind::kGroupNorm:
      return makeCudaGroupNorm(std::move(context));
    case OpKind::kLinear:
      return makeCudaLinear(std::move(context));
    case OpKind::kTimestepEmbedding:
      return makeCudaTimestepEmbedding(std::move(context));
    case OpKind::kLabelEmbedding:
      return makeCudaLabelEmbedding(std::move(context));
    case OpKind::kAttention:
      return makeCudaAttention(std::move(context));
    case OpKind::kUpsample:
    case OpKind::kAvgPool:
      return makeCudaResample(std::move(context));
    case OpKind::kSqueezeExcite:
      return makeCudaSqueezeExcite(std::move(context));
  }
  throw Error("ERR_INTERNAL", "unknown op kind");
}

void toHalf(const Device& device, const float* from, int64_t n, void* to) {
  toHalfCuda(cudaDevice(device), from, n, to);
}

void findNonFinite(const Device& device, const float* x, int64_t n, int32_t* result) {
  findNonFiniteCuda(cudaDevice(device), x, n, result);
}

}  // namespace

const OpFunctions& cudaOpFunctions() {
  static const OpFunctions functions = {compile, toHalf, findNonFinite};
  return functions;
}

}  // namespace ddad
