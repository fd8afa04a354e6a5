#include "graph/device_ops.h"

#include "graph/op_check.h"

namespace ddad {

const DeviceOps& opsOf(const Device& device) {
  const DeviceOps* ops = device.functions().ops;
  return ops ? *ops : cpuOps();
}

std::unique_ptr<Op> compileOp(OpContext context) {
  checkOp(context);
  const DeviceOps& ops = opsOf(*context.device);
  switch (context.record->kind) {
    case OpKind::kConv:
      return ops.makeConv(std::move(context));
    case OpKind::kDepthwiseConv:
      return ops.makeDepthwiseConv(std::move(context));
    case OpKind::kGroupNorm:
      return ops.makeGroupNorm(std::move(context));
    case OpKind::kLinear:
      return ops.makeLinear(std::move(context));
    case OpKind::kTimestepEmbedding:
      return ops.makeTimestepEmbedding(std::move(context));
    case OpKind::kLabelEmbedding:
      return ops.makeLabelEmbedding(std::move(context));
    case OpKind::kAttention:
      return ops.makeAttention(std::move(context));
    case OpKind::kUpsample:
    case OpKind::kAvgPool:
      return ops.makeResample(std::move(context));
    case OpKind::kSqueezeExcite:
      return ops.makeSqueezeExcite(std::move(context));
  }
  throw Error("ERR_INTERNAL", "unknown op kind");
}

}  // namespace ddad
