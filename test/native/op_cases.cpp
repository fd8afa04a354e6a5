#include "op_cases.h"

namespace ddad::testing {
namespace {

OpAttributes convAttr(int kernel, int stride = 1, int sources = 1, bool residual = false) {
  OpAttributes a;
  a.kernel = kernel;
  a.stride = stride;
  a.pad = kernel / 2;
  a.sources = sources;
  a.residual = residual;
  return a;
}

OpAttributes normAttr(int sources, EmbeddingMode embedding, Activation activation, int groups = 32) {
  OpAttributes a;
  a.sources = sources;
  a.embedding = embedding;
  a.activation = activation;
  a.groups = groups;
  return a;
}

OpAttributes attentionAttr(int heads, bool splitBeforeHeads) {
  OpAttributes a;
  a.heads = heads;
  a.splitBeforeHeads = splitBeforeHeads;
  return a;
}

OpAttributes squeezeAttr(int reduced, Activation activation = Activation::kSilu) {
  OpAttributes a;
  a.reduced = reduced;
  a.activation = activation;
  return a;
}

OpAttributes activated(OpAttributes a, Activation activation) {
  a.activation = activation;
  return a;
}

bool isVector(OpKind kind, size_t input, const OpCase& c) {
  if (kind == OpKind::kLinear || kind == OpKind::kTimestepEmbedding || kind == OpKind::kLabelEmbedding) return true;
  return kind == OpKind::kGroupNorm && input >= static_cast<size_t>(c.attr.sources);
}

}  // namespace

std::vector<OpCase> opCases() {
  using K = OpKind;
  using E = EmbeddingMode;
  using A = Activation;
  OpAttributes silu, classes, depthwise = convAttr(3), noBias = convAttr(3), tfPad = convAttr(5, 2);
  silu.siluInput = true;
  classes.classes = 5;
  noBias.bias = false;
  OpAttributes stem = activated(convAttr(3, 2), A::kSilu);
  stem.pad = 0;
  tfPad.pad = 1;
  return {
      {"conv3x3 32-32", K::kConv, convAttr(3), 2, 6, 10, {32}, 32},
      {"conv3x3 residual", K::kConv, convAttr(3, 1, 1, true), 2, 5, 7, {32, 64}, 64},
      {"conv3x3 odd sizes", K::kConv, convAttr(3), 1, 3, 5, {35}, 19},
      {"conv3x3 first", K::kConv, convAttr(3), 2, 9, 8, {3}, 32},
      {"conv3x3 first gray", K::kConv, convAttr(3), 1, 8, 8, {1}, 32},
      {"conv3x3 last", K::kConv, convAttr(3), 2, 8, 9, {32}, 6},
      {"conv3x3 last gray", K::kConv, convAttr(3), 1, 4, 4, {32}, 2},
      {"conv3x3 no bias", K::kConv, noBias, 1, 4, 6, {16}, 48},
      {"conv3x3 one pixel", K::kConv, convAttr(3), 1, 1, 1, {32}, 32},
      {"conv3x3 stride 2", K::kConv, convAttr(3, 2), 2, 8, 6, {32}, 32},
      {"conv3x3 stride 2 odd", K::kConv, convAttr(3, 2), 1, 7, 9, {8}, 40},
      {"conv3x3 wide", K::kConv, convAttr(3), 1, 8, 8, {96}, 128},
      {"conv3x3 winograd tiles", K::kConv, convAttr(3), 2, 17, 13, {64}, 64},
      {"conv1x1", K::kConv, convAttr(1), 2, 5, 6, {64}, 96},
      {"conv1x1 relu6", K::kConv, activated(convAttr(1), A::kRelu6), 1, 6, 5, {32}, 40},
      {"conv1x1 swish", K::kConv, activated(convAttr(1), A::kSilu), 2, 7, 9, {24}, 72},
      {"conv1x1 swish narrow", K::kConv, activated(convAttr(1), A::kSilu), 1, 3, 5, {16}, 7},
      {"conv3x3 swish", K::kConv, activated(convAttr(3), A::kSilu), 1, 9, 8, {32}, 32},
      {"conv3x3 swish stride 2 same", K::kConv, stem, 1, 10, 8, {3}, 32},
      {"conv1x1 two sources", K::kConv, convAttr(1, 1, 2), 2, 4, 5, {64, 32}, 32},
      {"conv1x1 two sources residual", K::kConv, convAttr(1, 1, 2, true), 1, 4, 4, {32, 40, 24}, 24},
      {"group norm", K::kGroupNorm, normAttr(1, E::kNone, A::kNone), 2, 5, 6, {64}, 64},
      {"group norm silu", K::kGroupNorm, normAttr(1, E::kNone, A::kSilu), 1, 16, 17, {32}, 32},
      {"group norm silu two sources", K::kGroupNorm, normAttr(2, E::kNone, A::kSilu), 2, 4, 5, {64, 32}, 96},
      {"group norm scale-shift", K::kGroupNorm, normAttr(1, E::kScaleShift, A::kSilu), 2, 4, 6, {64, 128}, 64},
      {"group norm added vector", K::kGroupNorm, normAttr(1, E::kAdd, A::kSilu), 2, 4, 6, {64, 64}, 64},
      {"linear", K::kLinear, {}, 3, 1, 1, {40}, 24},
      {"linear silu", K::kLinear, silu, 4, 1, 1, {128}, 96},
      {"timestep embedding", K::kTimestepEmbedding, {}, 3, 1, 1, {1}, 33},
      {"label embedding", K::kLabelEmbedding, classes, 4, 1, 1, {32, 1}, 32},
      {"attention per head", K::kAttention, attentionAttr(2, false), 2, 6, 9, {96}, 32},
      {"attention split first", K::kAttention, attentionAttr(4, true), 1, 5, 5, {192}, 64},
      {"attention narrow heads", K::kAttention, attentionAttr(4, false), 1, 3, 3, {60}, 20},
      {"upsample", K::kUpsample, {}, 2, 3, 5, {20}, 20},
      {"average pool", K::kAvgPool, {}, 2, 6, 4, {20}, 20},
      {"depthwise 3x3", K::kDepthwiseConv, depthwise, 2, 7, 6, {24}, 24},
      {"depthwise 3x3 relu6", K::kDepthwiseConv, activated(depthwise, A::kRelu6), 1, 18, 5, {24}, 24},
      {"depthwise 3x3 swish", K::kDepthwiseConv, activated(depthwise, A::kSilu), 2, 9, 7, {20}, 20},
      {"depthwise 5x5 swish stride 2", K::kDepthwiseConv, activated(convAttr(5, 2), A::kSilu), 1, 10, 8, {33}, 33},
      {"depthwise 5x5 wide", K::kDepthwiseConv, activated(convAttr(5), A::kSilu), 1, 6, 5, {150}, 150},
      {"depthwise 5x5 stride 2 same", K::kDepthwiseConv, tfPad, 1, 8, 10, {16}, 16},
      {"squeeze excite", K::kSqueezeExcite, squeezeAttr(6), 2, 5, 7, {24}, 24},
      {"squeeze excite pieces", K::kSqueezeExcite, squeezeAttr(4), 2, 17, 19, {35}, 35},
      {"squeeze excite one pixel", K::kSqueezeExcite, squeezeAttr(1), 3, 1, 1, {40}, 40},
      {"squeeze excite relu6", K::kSqueezeExcite, squeezeAttr(5, A::kRelu6), 1, 4, 4, {16}, 16},
  };
}

OpCaseGraph buildOpCase(const OpCase& c) {
  OpCaseGraph g;
  const int inLevel = c.kind == OpKind::kUpsample ? 1 : 0;
  int outLevel = c.kind == OpKind::kUpsample ? 0 : c.kind == OpKind::kAvgPool || c.attr.stride == 2 ? 1 : 0;
  for (size_t i = 0; i < c.in.size(); ++i) {
    const int level = isVector(c.kind, i, c) ? TensorSpec::kVector : i == 0 ? inLevel : c.attr.residual ? outLevel : 0;
    g.inputs.push_back(g.graph.addTensor("in" + std::to_string(i), c.in[i], level));
    g.graph.markInput(g.inputs.back());
  }
  int64_t channels = 0;
  for (int s = 0; s < c.attr.sources; ++s) channels += c.in[static_cast<size_t>(s)];
  std::vector<ParamId> params;
  const int64_t k = c.attr.kernel;
  switch (c.kind) {
    case OpKind::kConv:
      params = {g.graph.addParam("weight", {c.out, channels, k, k})};
      if (c.attr.bias) params.push_back(g.graph.addParam("bias", {c.out}));
      break;
    case OpKind::kDepthwiseConv:
      params = {g.graph.addParam("weight", {c.out, 1, k, k}), g.graph.addParam("bias", {c.out})};
      break;
    case OpKind::kGroupNorm:
      params = {g.graph.addParam("weight", {c.out}), g.graph.addParam("bias", {c.out})};
      break;
    case OpKind::kLinear:
      params = {g.graph.addParam("weight", {c.out, c.in[0]}), g.graph.addParam("bias", {c.out})};
      break;
    case OpKind::kSqueezeExcite:
      params = {g.graph.addParam("reduce", {c.attr.reduced, c.out, 1, 1}),
                g.graph.addParam("reduce.bias", {c.attr.reduced}),
                g.graph.addParam("expand", {c.out, c.attr.reduced, 1, 1}), g.graph.addParam("expand.bias", {c.out})};
      break;
    case OpKind::kLabelEmbedding:
      params = {g.graph.addParam("weight", {c.attr.classes, c.out})};
      outLevel = TensorSpec::kVector;
      break;
    default:
      break;
  }
  if (isVector(c.kind, 0, c)) outLevel = TensorSpec::kVector;
  g.output = g.graph.addOp(c.kind, "op", g.inputs, c.out, outLevel, params, c.attr);
  g.graph.markOutput(g.output);
  return g;
}

}  // namespace ddad::testing
