#include "graph/op.h"

#include "graph/op_check.h"
#include "graph/op_functions.h"
#include "ops/attention/attention.h"
#include "ops/conv/conv.h"
#include "ops/depthwise/depthwise.h"
#include "ops/embedding/embedding.h"
#include "ops/group_norm/group_norm.h"
#include "ops/linear/linear.h"
#include "ops/resample/resample.h"
#include "ops/squeeze_excite/squeeze_excite.h"

namespace ddad {

std::unique_ptr<Op> compileOp(OpContext context) {
  checkOp(context);
  if (const void* own = context.device->functions(FunctionTable::kOps))
    return static_cast<const OpFunctions*>(own)->compile(std::move(context));
  switch (context.record->kind) {
    case OpKind::kConv:
      return makeConv(context);
    case OpKind::kDepthwiseConv:
      return makeDepthwiseConv(std::move(context));
    case OpKind::kGroupNorm:
      return makeGroupNorm(std::move(context));
    case OpKind::kLinear:
      return makeLinear(std::move(context));
    case OpKind::kTimestepEmbedding:
      return makeTimestepEmbedding(std::move(context));
    case OpKind::kLabelEmbedding:
      return makeLabelEmbedding(std::move(context));
    case OpKind::kAttention:
      return makeAttention(std::move(context));
    case OpKind::kUpsample:
    case OpKind::kAvgPool:
      return makeResample(std::move(context));
    case OpKind::kSqueezeExcite:
      return makeSqueezeExcite(std::move(context));
  }
  throw Error("ERR_INTERNAL", "unknown op kind");
}

}  // namespace ddad
