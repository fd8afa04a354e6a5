#include "graph/op_kind.h"

namespace ddad {

// No default: the compiler names a kind that is missing here, and so the tests that walk over all kinds see it.
const char* opKindName(OpKind kind) {
  switch (kind) {
    case OpKind::kConv:
      return "conv";
    case OpKind::kDepthwiseConv:
      return "depthwise";
    case OpKind::kGroupNorm:
      return "norm";
    case OpKind::kLinear:
      return "linear";
    case OpKind::kTimestepEmbedding:
      return "timesteps";
    case OpKind::kLabelEmbedding:
      return "labels";
    case OpKind::kAttention:
      return "attention";
    case OpKind::kUpsample:
      return "upsample";
    case OpKind::kAvgPool:
      return "pool";
    case OpKind::kSqueezeExcite:
      return "squeeze-excite";
  }
  return nullptr;
}

}  // namespace ddad
