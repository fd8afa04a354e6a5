#include "backbone/efficientnet.h"

#include <utility>

#include "backbone/batch_norm.h"
#include "base/error.h"

namespace ddad {
namespace {

// The family's seven stages; the widths and the number of blocks of each are read from the file.
constexpr int kStages = 7;
constexpr int kStageStride[kStages] = {1, 2, 2, 2, 1, 2, 1};
constexpr int kStageKernel[kStages] = {3, 3, 5, 3, 5, 5, 3};
constexpr bool kTapAfter[kStages] = {true, true, true, false, true, false, true};

class Builder {
 public:
  Builder(const TensorSource& file, const std::string& prefix, int64_t maxStride)
      : file_(file), dict_(findStateDict(file, prefix)), maxStride_(maxStride) {
    net_.style = readStyle(file, prefix, dict_);
  }

  Backbone build() {
    Graph& g = net_.graph;
    net_.input = g.addTensor("image", 3, 0);
    g.markInput(net_.input);
    TensorId h = conv({dict_.stem, dict_.stemNorm, "_conv_stem"}, net_.input, 3, 2, net_.style.activation);
    for (size_t i = 0; i < dict_.blocks.size(); ++i) {
      const int stage = dict_.blocks[i].stage;
      if (stage >= kStages) break;
      const auto startsStage = [&](size_t block) {
        return block == 0 || block == dict_.blocks.size() || dict_.blocks[block].stage != dict_.blocks[block - 1].stage;
      };
      h = mbconv(i, h, startsStage(i) ? kStageStride[stage] : 1, kStageKernel[stage]);
      if (startsStage(i + 1) && kTapAfter[stage]) {
        net_.taps.push_back({"block" + std::to_string(i), h, g.tensor(h).channels, level_});
        g.markOutput(h);
        if (stage + 1 == kStages || int64_t{1} << level_ == maxStride_) break;
      }
    }
    if (net_.taps.empty() || int64_t{1} << net_.taps.back().level != maxStride_)
      refuse("expected stages at stride 2 to " + std::to_string(maxStride_) + ", got " +
             std::to_string(net_.taps.size()) + " of them");
    net_.parameters = AlignedBuffer(g.parameterFloats());
    for (const Stored& s : stored_)
      readConvolution(file_, s.layer.name, s.layer.norm, net_.style.batchNormEps, g.param(s.weight).shape,
                      net_.parameters.data() + g.param(s.weight).offset,
                      net_.parameters.data() + g.param(s.bias).offset);
    return std::move(net_);
  }

 private:
  /// A layer's name in the file, that of its norm (empty: none), and the name that it has here.
  struct Layer {
    std::string name, norm, opName;
  };
  struct Stored {
    Layer layer;
    ParamId weight, bias;
  };

  [[noreturn]] void refuse(const std::string& why) const { throw Error("ERR_MODEL_FORMAT", file_.path() + ": " + why); }

  /// Output channels of a convolution.
  int64_t width(const Layer& layer) const {
    const auto& shape = file_.shapeOf(layer.name + ".weight");
    if (shape.size() != 4 || shape[0] < 1)
      refuse(layer.name + ".weight: expected [out, in, k, k], got " + shapeText(shape));
    return shape[0];
  }

  /// Adds weight and bias, to be read once the network is complete.
  std::vector<ParamId> parameters(const Layer& layer, const std::vector<int64_t>& expected) {
    Graph& g = net_.graph;
    width(layer);
    const auto& shape = file_.shapeOf(layer.name + ".weight");
    if (shape != expected)
      refuse(layer.name + ".weight: expected " + shapeText(expected) + ", got " + shapeText(shape));
    const ParamId weight = g.addParam(layer.opName + ".weight", expected),
                  bias = g.addParam(layer.opName + ".bias", {expected[0]});
    stored_.push_back({layer, weight, bias});
    return {weight, bias};
  }

  TensorId conv(const Layer& layer, TensorId x, int kernel, int stride, Activation activation, TensorId residual = -1,
                bool depthwise = false) {
    Graph& g = net_.graph;
    const int64_t in = g.tensor(x).channels, out = depthwise ? in : width(layer);
    OpAttributes attr;
    attr.kernel = kernel;
    attr.stride = stride;
    // SAME of an image of even size: an odd pixel of padding goes after it
    const bool uneven = stride == 2 && net_.style.padding == Padding::kSame;
    attr.pad = uneven ? (kernel - 2) / 2 : (kernel - 1) / 2;
    attr.activation = activation;
    attr.residual = residual >= 0;
    std::vector<TensorId> inputs = {x};
    if (residual >= 0) inputs.push_back(residual);
    const std::vector<ParamId> params = parameters(layer, {out, depthwise ? 1 : in, kernel, kernel});
    if (stride == 2) ++level_;
    return g.addOp(depthwise ? OpKind::kDepthwiseConv : OpKind::kConv, layer.opName, std::move(inputs), out, level_,
                   params, attr);
  }

  TensorId squeezeExcite(const Layer& reduce, const Layer& excite, const std::string& opName, TensorId x) {
    Graph& g = net_.graph;
    const int64_t channels = g.tensor(x).channels, reduced = width(reduce);
    OpAttributes attr;
    attr.activation = net_.style.activation;
    attr.reduced = reduced;
    std::vector<ParamId> params = parameters(reduce, {reduced, channels, 1, 1});
    for (const ParamId id : parameters(excite, {channels, reduced, 1, 1})) params.push_back(id);
    return g.addOp(OpKind::kSqueezeExcite, opName, {x}, channels, level_, params, attr);
  }

  /// An inverted bottleneck (MBConv): 1x1 to more channels, depthwise, squeeze-excite, 1x1 to fewer.
  TensorId mbconv(size_t index, TensorId x, int stride, int kernel) {
    const BlockNames& names = dict_.blocks[index];
    const Activation activation = net_.style.activation;
    const std::string prefix = "_blocks." + std::to_string(index) + ".";
    TensorId h = x;
    if (!names.expand.empty()) h = conv({names.expand, names.expandNorm, prefix + "_expand_conv"}, h, 1, 1, activation);
    h = conv({names.depthwise, names.depthwiseNorm, prefix + "_depthwise_conv"}, h, kernel, stride, activation, -1,
             true);
    if (!names.reduce.empty())
      h = squeezeExcite({names.reduce, "", prefix + "_se_reduce"}, {names.excite, "", prefix + "_se_expand"},
                        prefix + "_se", h);
    const Layer project = {names.project, names.projectNorm, prefix + "_project_conv"};
    const bool residual = stride == 1 && net_.graph.tensor(x).channels == width(project);
    return conv(project, h, 1, 1, Activation::kNone, residual ? x : -1);
  }

  const TensorSource& file_;
  const StateDict dict_;
  const int64_t maxStride_;
  Backbone net_;
  std::vector<Stored> stored_;
  int level_ = 0;
};

}  // namespace

int64_t deepestStride(const TensorSource& file, const std::string& prefix) {
  const StateDict dict = findStateDict(file, prefix);
  const int last = dict.blocks.empty() ? -1 : dict.blocks.back().stage;
  return last >= kStages - 1 ? 32 : last >= 4 ? 16 : last >= 2 ? 8 : last >= 1 ? 4 : 2;
}

Backbone loadBackbone(const TensorSource& file, const std::string& prefix, int64_t maxStride) {
  return Builder(file, prefix, maxStride).build();
}

}  // namespace ddad
