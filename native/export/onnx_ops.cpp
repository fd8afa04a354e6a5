#include "export/onnx_ops.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "graph/op_kind.h"

namespace ddad {
namespace {

using Ints = std::vector<int64_t>;

/// One record on its way into the model.
class OpCall {
 public:
  OpCall(OnnxModel& to, const OnnxNetwork& network, const OpRecord& record, const std::vector<OnnxValue>& values)
      : model(to), attr(record.attr), network_(network), record_(record), values_(values) {}

  const OnnxValue& in(size_t i) const { return values_[static_cast<size_t>(record_.inputs.at(i))]; }
  size_t inputs() const { return record_.inputs.size(); }
  int64_t channels() const { return network_.graph->tensor(record_.output).channels; }
  const std::vector<int>& timesteps() const { return network_.timesteps; }

  /// The first `attr.sources` inputs as one.
  OnnxValue source() const {
    if (attr.sources == 1) return in(0);
    std::vector<OnnxValue> parts;
    for (int s = 0; s < attr.sources; ++s) parts.push_back(in(static_cast<size_t>(s)));
    return model.node("Concat", parts, {{"axis", int64_t{1}}});
  }

  const Ints& paramShape(size_t i) const { return spec(i).shape; }
  /// A parameter, in its own shape or in another of the same size.
  OnnxValue param(size_t i) const { return param(i, spec(i).shape); }
  OnnxValue param(size_t i, const Ints& shape) const {
    const ParamSpec& p = spec(i);
    return model.weight(network_.prefix + p.name, shape, [read = network_.read, &p](float* to) { read(p, to); });
  }

  OnnxValue reshape(const OnnxValue& x, const Ints& shape) const {
    return model.node("Reshape", {x, model.integers(shape)});
  }
  /// x as [N, channels, height, width], heights and widths being those of `like`, a tensor of the output's level.
  OnnxValue spatial(const OnnxValue& x, const OnnxValue& like) const {
    const int64_t c = channels();
    if (network_.size) {
      const int level = network_.graph->tensor(record_.output).level;
      return reshape(x, {0, c, network_.size->height >> level, network_.size->width >> level});
    }
    const OnnxValue size = model.node("Shape", {like}, {{"start", int64_t{2}}});
    const OnnxValue shape = model.node("Concat", {model.integers({0, c}), size}, {{"axis", int64_t{0}}});
    return model.node("Reshape", {x, shape});
  }
  OnnxValue silu(const OnnxValue& x) const { return model.node("Mul", {x, model.node("Sigmoid", {x})}); }
  OnnxValue activate(const OnnxValue& x) const {
    switch (attr.activation) {
      case Activation::kNone:
        return x;
      case Activation::kSilu:
        return silu(x);
      case Activation::kRelu6:
        return model.node("Clip", {x, model.scalar(0), model.scalar(6)});
    }
    throw Error("ERR_INTERNAL", record_.name + ": its activation has no ONNX mapping");
  }

  OnnxModel& model;
  const OpAttributes& attr;

 private:
  const ParamSpec& spec(size_t i) const { return network_.graph->param(record_.params.at(i)); }

  const OnnxNetwork& network_;
  const OpRecord& record_;
  const std::vector<OnnxValue>& values_;
};

OnnxValue convolution(const OpCall& op, int64_t group) {
  const int64_t k = op.attr.kernel, before = op.attr.pad;
  // enough for a height and width that the stride divides; a row more than is read does no harm
  const int64_t after = std::max<int64_t>(0, k - op.attr.stride - before);
  Ints weightShape = op.paramShape(0);
  weightShape.resize(4, 1);  // the one-dimensional convolutions of attention
  std::vector<OnnxValue> inputs = {op.source(), op.param(0, weightShape)};
  if (op.attr.bias) inputs.push_back(op.param(1));
  OnnxValue y = op.model.node("Conv", inputs,
                              {{"group", group},
                               {"kernel_shape", Ints{k, k}},
                               {"strides", Ints{op.attr.stride, op.attr.stride}},
                               {"pads", Ints{before, before, after, after}}});
  if (op.attr.residual) y = op.model.node("Add", {y, op.in(static_cast<size_t>(op.attr.sources))});
  return op.activate(y);
}

OnnxValue conv(const OpCall& op) { return convolution(op, 1); }
OnnxValue depthwiseConv(const OpCall& op) { return convolution(op, op.channels()); }

/// A group is an instance of its own; the affine part follows, since it differs from channel to channel.
OnnxValue groupNorm(const OpCall& op) {
  OnnxModel& m = op.model;
  const int64_t c = op.channels(), groups = op.attr.groups;
  const auto embedding = [&] { return op.in(static_cast<size_t>(op.attr.sources)); };
  OnnxValue x = op.source();
  if (op.attr.embedding == EmbeddingMode::kAdd) x = m.node("Add", {x, op.reshape(embedding(), {0, c, 1, 1})});
  const auto each = [&](float value) {
    return m.constant(std::vector<float>(static_cast<size_t>(groups), value), {groups});
  };
  OnnxValue y =
      m.node("InstanceNormalization", {op.reshape(x, {0, groups, -1}), each(1), each(0)}, {{"epsilon", op.attr.eps}});
  y = m.node("Mul", {op.spatial(y, x), op.param(0, {c, 1, 1})});
  y = m.node("Add", {y, op.param(1, {c, 1, 1})});
  if (op.attr.embedding == EmbeddingMode::kScaleShift) {
    const auto parts = m.nodes("Split", {op.reshape(embedding(), {0, 2 * c, 1, 1})}, 2, {{"axis", int64_t{1}}});
    y = m.node("Mul", {y, m.node("Add", {parts[0], m.scalar(1)})});
    y = m.node("Add", {y, parts[1]});
  }
  return op.activate(y);
}

OnnxValue linear(const OpCall& op) {
  const OnnxValue x = op.attr.siluInput ? op.silu(op.in(0)) : op.in(0);
  return op.model.node("Gemm", {x, op.param(0), op.param(1)}, {{"transB", int64_t{1}}});
}

/// A row of a table: computed here in double, angles of large steps lose no digits in float32.
OnnxValue timestepEmbedding(const OpCall& op) {
  const int64_t c = op.channels(), half = c / 2;
  std::vector<float> table;
  for (const int t : op.timesteps())
    for (int64_t i = 0; i < c; ++i) {
      const double frequency = std::exp(-std::log(10000.0) * static_cast<double>(i % half) / static_cast<double>(half));
      const double angle = static_cast<double>(t) * frequency;
      table.push_back(i >= 2 * half ? 0.0f : static_cast<float>(i < half ? std::cos(angle) : std::sin(angle)));
    }
  const auto rows = static_cast<int64_t>(op.timesteps().size());
  return op.model.node("Gather", {op.model.constant(table, {rows, c}), op.in(0)});
}

OnnxValue labelEmbedding(const OpCall& op) {
  return op.model.node("Add", {op.in(0), op.model.node("Gather", {op.param(0), op.in(1)})});
}

/// softmax(Q^T K / sqrt(width)) over [N, heads, width, positions].
OnnxValue attention(const OpCall& op) {
  OnnxModel& m = op.model;
  const int64_t heads = op.attr.heads, width = op.channels() / heads;
  const bool whole = op.attr.splitBeforeHeads;
  const OnnxValue qkv = op.reshape(op.in(0), whole ? Ints{0, 3 * heads, width, -1} : Ints{0, heads, 3 * width, -1});
  const auto parts = m.nodes("Split", {qkv}, 3, {{"axis", int64_t{whole ? 1 : 2}}});
  const auto transposed = [&](const OnnxValue& x) { return m.node("Transpose", {x}, {{"perm", Ints{0, 1, 3, 2}}}); };
  OnnxValue scores = m.node("MatMul", {transposed(parts[0]), parts[1]});
  scores = m.node("Mul", {scores, m.scalar(static_cast<float>(1 / std::sqrt(static_cast<double>(width))))});
  const OnnxValue weights = m.node("Softmax", {scores}, {{"axis", int64_t{-1}}});
  return op.spatial(m.node("MatMul", {parts[2], transposed(weights)}), op.in(0));
}

OnnxValue upsample(const OpCall& op) {
  return op.model.node("Resize", {op.in(0), "", op.model.constant({1, 1, 2, 2}, {4})},
                       {{"mode", std::string("nearest")},
                        {"coordinate_transformation_mode", std::string("asymmetric")},
                        {"nearest_mode", std::string("floor")}});
}

OnnxValue avgPool(const OpCall& op) {
  return op.model.node("AveragePool", {op.in(0)}, {{"kernel_shape", Ints{2, 2}}, {"strides", Ints{2, 2}}});
}

/// x times one factor a channel, found from the channels' means.
OnnxValue squeezeExcite(const OpCall& op) {
  OnnxModel& m = op.model;
  const auto dense = [&](const OnnxValue& x, size_t weight) {
    return m.node("Conv", {x, op.param(weight), op.param(weight + 1)}, {{"kernel_shape", Ints{1, 1}}});
  };
  const OnnxValue hidden = op.activate(dense(m.node("GlobalAveragePool", {op.in(0)}), 0));
  return m.node("Mul", {op.in(0), m.node("Sigmoid", {dense(hidden, 2)})});
}

struct Mapping {
  OpKind kind;
  OnnxValue (*write)(const OpCall&);
};

constexpr Mapping kMappings[] = {
    {OpKind::kConv, conv},
    {OpKind::kDepthwiseConv, depthwiseConv},
    {OpKind::kGroupNorm, groupNorm},
    {OpKind::kLinear, linear},
    {OpKind::kTimestepEmbedding, timestepEmbedding},
    {OpKind::kLabelEmbedding, labelEmbedding},
    {OpKind::kAttention, attention},
    {OpKind::kUpsample, upsample},
    {OpKind::kAvgPool, avgPool},
    {OpKind::kSqueezeExcite, squeezeExcite},
};

const Mapping* find(OpKind kind) {
  const auto* found =
      std::find_if(std::begin(kMappings), std::end(kMappings), [&](const Mapping& m) { return m.kind == kind; });
  return found == std::end(kMappings) ? nullptr : found;
}

}  // namespace

bool hasOnnxMapping(OpKind kind) { return find(kind) != nullptr; }

void appendNetwork(OnnxModel& model, const OnnxNetwork& network, std::vector<OnnxValue>& values) {
  values.resize(network.graph->tensors().size());
  for (const OpRecord& record : network.graph->ops()) {
    const Mapping* mapping = find(record.kind);
    if (!mapping) {
      const char* kind = opKindName(record.kind);
      throw Error("ERR_INTERNAL",
                  record.name + ": the op " + (kind ? kind : "without a name") + " has no ONNX mapping");
    }
    model.scope(network.prefix + record.name);
    values[static_cast<size_t>(record.output)] = mapping->write(OpCall(model, network, record, values));
  }
  model.scope("");
}

}  // namespace ddad
