#include "unet/unet.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace ddad {
namespace {

class Builder {
 public:
  explicit Builder(const UNetConfig& config) : c_(config), levels_(config.channelMult.size()) {}

  UNet build() {
    Graph& g = net_.graph;
    net_.x = g.addTensor("x", c_.inChannels, 0);
    net_.t = g.addTensor("t", 1, TensorSpec::kVector);
    g.markInput(net_.x);
    g.markInput(net_.t);
    if (c_.numClasses > 0) {
      net_.y = g.addTensor("y", 1, TensorSpec::kVector);
      g.markInput(net_.y);
    }
    timeEmbedding();

    struct Skip {
      TensorId tensor;
      int64_t channels;
    };
    std::vector<Skip> skips;
    int64_t channels = c_.channelMult[0] * c_.modelChannels;
    TensorId h = conv("input_blocks.0.0", net_.x, c_.inChannels, channels, 0);
    skips.push_back({h, channels});
    int block = 1, level = 0;
    for (size_t i = 0; i < levels_; ++i) {
      for (int64_t k = 0; k < c_.numResBlocks; ++k, ++block) {
        const std::string prefix = "input_blocks." + std::to_string(block);
        const int64_t out = c_.channelMult[i] * c_.modelChannels;
        h = resBlock(prefix + ".0", {h}, channels, out, level, Resampling::kNone);
        channels = out;
        if (attentionAt(level)) h = attention(prefix + ".1", h, channels, level);
        skips.push_back({h, channels});
      }
      if (i + 1 == levels_) break;
      const std::string prefix = "input_blocks." + std::to_string(block++) + ".0";
      h = c_.resblockUpdown ? resBlock(prefix, {h}, channels, channels, level, Resampling::kDown)
                            : conv(prefix + ".op", h, channels, channels, level, 2);
      ++level;
      skips.push_back({h, channels});
    }

    h = resBlock("middle_block.0", {h}, channels, channels, level, Resampling::kNone);
    h = attention("middle_block.1", h, channels, level);
    h = resBlock("middle_block.2", {h}, channels, channels, level, Resampling::kNone);

    block = 0;
    TensorId featureSource = -1;
    int64_t featureWidth = 0;
    for (size_t i = levels_; i-- > 0;) {
      for (int64_t k = 0; k <= c_.numResBlocks; ++k, ++block) {
        const std::string prefix = "output_blocks." + std::to_string(block);
        const Skip skip = skips.back();
        skips.pop_back();
        const int64_t out = c_.channelMult[i] * c_.modelChannels;
        h = resBlock(prefix + ".0", {h, skip.tensor}, channels + skip.channels, out, level, Resampling::kNone);
        channels = out;
        int part = 1;
        if (attentionAt(level)) h = attention(prefix + "." + std::to_string(part++), h, channels, level);
        if (i > 0 && k == c_.numResBlocks) {
          const std::string up = prefix + "." + std::to_string(part);
          if (c_.resblockUpdown) {
            h = resBlock(up, {h}, channels, channels, level, Resampling::kUp);
          } else {
            const TensorId fine = g.addOp(OpKind::kUpsample, up, {h}, channels, level - 1, {});
            h = conv(up + ".conv", fine, channels, channels, level - 1);
          }
          --level;
        }
        if (level == 2) {  // the last output block whose result has stride 4
          featureSource = h;
          featureWidth = channels;
        }
      }
    }

    const TensorId normed = norm("out.0", {h}, channels, 0, Activation::kSilu, -1);
    net_.out = conv("out.2", normed, channels, c_.outChannels, 0);
    g.markOutput(net_.out);
    if (c_.featureChannels > 0) {
      if (featureSource < 0)
        throw Error("ERR_CONFIG",
                    "unet.channelMult: the feature head needs at least 3 levels, got " + std::to_string(levels_));
      const TensorId head = norm("feat_rec1.0", {featureSource}, featureWidth, 2, Activation::kSilu, -1);
      net_.features = pointwise("feat_rec1.2", {head}, {featureWidth}, c_.featureChannels, 2, -1, 4);
      g.markOutput(net_.features);
    }
    return std::move(net_);
  }

 private:
  enum class Resampling { kNone, kUp, kDown };

  bool attentionAt(int level) const {
    return std::any_of(c_.attentionResolutions.begin(), c_.attentionResolutions.end(),
                       [&](int64_t r) { return c_.imageSize / r == int64_t{1} << level; });
  }

  void timeEmbedding() {
    Graph& g = net_.graph;
    const int64_t wide = 4 * c_.modelChannels;
    const TensorId wave =
        g.addOp(OpKind::kTimestepEmbedding, "timestep_embedding", {net_.t}, c_.modelChannels, TensorSpec::kVector, {});
    const TensorId hidden = linear("time_embed.0", wave, c_.modelChannels, wide, false);
    embedding_ = linear("time_embed.2", hidden, wide, wide, true);
    if (c_.numClasses > 0) {
      OpAttributes attr;
      attr.classes = static_cast<int>(c_.numClasses);
      embedding_ = g.addOp(OpKind::kLabelEmbedding, "label_emb", {embedding_, net_.y}, wide, TensorSpec::kVector,
                           {g.addParam("label_emb.weight", {c_.numClasses, wide})}, attr);
    }
  }

  TensorId linear(const std::string& name, TensorId x, int64_t in, int64_t out, bool siluInput) {
    Graph& g = net_.graph;
    OpAttributes attr;
    attr.siluInput = siluInput;
    const ParamId weight = g.addParam(name + ".weight", {out, in});
    const ParamId bias = g.addParam(name + ".bias", {out});
    return g.addOp(OpKind::kLinear, name, {x}, out, TensorSpec::kVector, {weight, bias}, attr);
  }

  TensorId norm(const std::string& name, std::vector<TensorId> sources, int64_t channels, int level,
                Activation activation, TensorId embedding, EmbeddingMode mode = EmbeddingMode::kNone) {
    Graph& g = net_.graph;
    OpAttributes attr;
    attr.sources = static_cast<int>(sources.size());
    attr.activation = activation;
    attr.embedding = mode;
    if (embedding >= 0) sources.push_back(embedding);
    const ParamId weight = g.addParam(name + ".weight", {channels});
    const ParamId bias = g.addParam(name + ".bias", {channels});
    return g.addOp(OpKind::kGroupNorm, name, std::move(sources), channels, level, {weight, bias}, attr);
  }

  /// 3x3 convolution, padding 1; `level` is the input's.
  TensorId conv(const std::string& name, TensorId x, int64_t in, int64_t out, int level, int stride = 1,
                TensorId residual = -1) {
    Graph& g = net_.graph;
    OpAttributes attr;
    attr.kernel = 3;
    attr.pad = 1;
    attr.stride = stride;
    attr.residual = residual >= 0;
    std::vector<TensorId> inputs = {x};
    if (residual >= 0) inputs.push_back(residual);
    const ParamId weight = g.addParam(name + ".weight", {out, in, 3, 3});
    const ParamId bias = g.addParam(name + ".bias", {out});
    return g.addOp(OpKind::kConv, name, std::move(inputs), out, level + (stride == 2 ? 1 : 0), {weight, bias}, attr);
  }

  /// 1x1 convolution over one or two sources; `dims` is the rank of its weight (3 in attention, where the public code
  /// has a one-dimensional convolution).
  TensorId pointwise(const std::string& name, std::vector<TensorId> sources, const std::vector<int64_t>& widths,
                     int64_t out, int level, TensorId residual, int dims) {
    Graph& g = net_.graph;
    OpAttributes attr;
    attr.sources = static_cast<int>(sources.size());
    attr.residual = residual >= 0;
    if (residual >= 0) sources.push_back(residual);
    int64_t in = 0;
    for (int64_t w : widths) in += w;
    std::vector<int64_t> shape = {out, in};
    shape.resize(static_cast<size_t>(dims), 1);
    const ParamId weight = g.addParam(name + ".weight", std::move(shape));
    const ParamId bias = g.addParam(name + ".bias", {out});
    return g.addOp(OpKind::kConv, name, std::move(sources), out, level, {weight, bias}, attr);
  }

  TensorId resBlock(const std::string& name, const std::vector<TensorId>& sources, int64_t in, int64_t out, int level,
                    Resampling resampling) {
    Graph& g = net_.graph;
    int outLevel = level;
    TensorId h = norm(name + ".in_layers.0", sources, in, level, Activation::kSilu, -1);
    TensorId x = sources[0];
    if (resampling != Resampling::kNone) {
      const OpKind kind = resampling == Resampling::kUp ? OpKind::kUpsample : OpKind::kAvgPool;
      outLevel += resampling == Resampling::kUp ? -1 : 1;
      h = g.addOp(kind, name + ".h_upd", {h}, in, outLevel, {});
      x = g.addOp(kind, name + ".x_upd", {x}, in, outLevel, {});
    }
    h = conv(name + ".in_layers.2", h, in, out, outLevel);
    const bool scaleShift = c_.useScaleShiftNorm;
    const TensorId e =
        linear(name + ".emb_layers.1", embedding_, 4 * c_.modelChannels, scaleShift ? 2 * out : out, true);
    h = norm(name + ".out_layers.0", {h}, out, outLevel, Activation::kSilu, e,
             scaleShift ? EmbeddingMode::kScaleShift : EmbeddingMode::kAdd);
    if (in == out && sources.size() == 1) return conv(name + ".out_layers.3", h, out, out, outLevel, 1, x);
    if (in == out)
      throw Error("ERR_CONFIG", name + ": a concatenation as wide as its output has no place in this UNet");
    std::vector<TensorId> skipSources = sources;
    skipSources[0] = x;
    std::vector<int64_t> widths;
    for (TensorId id : skipSources) widths.push_back(g.tensor(id).channels);
    const TensorId skip = pointwise(name + ".skip_connection", skipSources, widths, out, outLevel, -1, 4);
    return conv(name + ".out_layers.3", h, out, out, outLevel, 1, skip);
  }

  TensorId attention(const std::string& name, TensorId x, int64_t channels, int level) {
    Graph& g = net_.graph;
    OpAttributes attr;
    attr.heads = static_cast<int>(c_.numHeadChannels > 0 ? channels / c_.numHeadChannels : c_.numHeads);
    attr.splitBeforeHeads = c_.useNewAttentionOrder;
    const TensorId normed = norm(name + ".norm", {x}, channels, level, Activation::kNone, -1);
    const TensorId qkv = pointwise(name + ".qkv", {normed}, {channels}, 3 * channels, level, -1, 3);
    const TensorId mixed = g.addOp(OpKind::kAttention, name + ".attention", {qkv}, channels, level, {}, attr);
    return pointwise(name + ".proj_out", {mixed}, {channels}, channels, level, x, 3);
  }

  const UNetConfig& c_;
  size_t levels_;
  UNet net_;
  TensorId embedding_ = -1;
};

}  // namespace

UNet buildUNet(const UNetConfig& config) { return Builder(config).build(); }

}  // namespace ddad
