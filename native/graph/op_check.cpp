#include "graph/op_check.h"

#include <string>

namespace ddad {
namespace {

[[noreturn]] void fail(const OpContext& context, const std::string& what) {
  throw Error("ERR_CONFIG", context.record->name + ": " + what);
}

void checkConv(const OpContext& context) {
  const OpAttributes& attr = context.record->attr;
  if (attr.kernel < 1 || attr.kernel > 7)
    fail(context, "expected a kernel of 1 to 7, got " + std::to_string(attr.kernel));
  if (attr.stride < 1 || attr.stride > 2) fail(context, "expected stride 1 or 2, got " + std::to_string(attr.stride));
  if (attr.sources > 1 && (attr.kernel != 1 || attr.stride != 1))
    fail(context, "two sources need a 1x1 kernel with stride 1");
  if (attr.residual && attr.activation != Activation::kNone && context.training)
    fail(context, "a residual before the activation has no backward");
}

void checkGroupNorm(const OpContext& context) {
  const int groups = context.record->attr.groups;
  if (groups < 1 || context.out.c % groups != 0)
    fail(context,
         "expected channels divisible by " + std::to_string(groups) + " groups, got " + std::to_string(context.out.c));
}

void checkAttention(const OpContext& context) {
  const int64_t channels = context.out.c, heads = context.record->attr.heads;
  if (heads < 1 || channels % heads != 0 || context.in[0].c != 3 * channels)
    fail(context, "expected channels divisible by the number of heads, got " + std::to_string(channels) +
                      " channels and " + std::to_string(heads) + " heads");
}

void checkResample(const OpContext& context, const Shape& coarse, const Shape& fine) {
  if (fine.h != 2 * coarse.h || fine.w != 2 * coarse.w)
    fail(context, "expected an even height and width, got " + std::to_string(fine.h) + " x " + std::to_string(fine.w));
}

}  // namespace

void checkOp(const OpContext& context) {
  switch (context.record->kind) {
    case OpKind::kConv:
      return checkConv(context);
    case OpKind::kGroupNorm:
      return checkGroupNorm(context);
    case OpKind::kAttention:
      return checkAttention(context);
    case OpKind::kUpsample:
      return checkResample(context, context.in[0], context.out);
    case OpKind::kAvgPool:
      return checkResample(context, context.out, context.in[0]);
    case OpKind::kSqueezeExcite:
      if (const int64_t reduced = context.record->attr.reduced; reduced < 1)
        fail(context, "expected a reduced width of at least 1, got " + std::to_string(reduced));
      return;
    case OpKind::kDepthwiseConv:
    case OpKind::kLinear:
    case OpKind::kTimestepEmbedding:
    case OpKind::kLabelEmbedding:
      return;
  }
}

}  // namespace ddad
