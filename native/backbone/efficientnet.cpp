#include "backbone/efficientnet.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "tensor/error.h"

namespace ddad {
namespace {

// The family's seven stages; the widths and the number of blocks of each are read from the file.
constexpr int kStageStride[] = {1, 2, 2, 2, 1, 2, 1};
constexpr int kStageKernel[] = {3, 3, 5, 3, 5, 5, 3};
constexpr int kTappedStages = 5;
constexpr bool kTapAfter[] = {true, true, true, false, true};

/// Folds y = gamma (w x - mean) / sqrt(var + eps) + beta into weight and bias; where the file has a bias in the place
/// of a norm, that has been done already.
class Folder {
 public:
  Folder(const SafetensorsFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {
    const auto it = file.metadata().find("batchNormEps");
    eps_ = it == file.metadata().end() ? 1e-3 : std::strtod(it->second.c_str(), nullptr);
    if (!(eps_ > 0 && eps_ < 1))
      throw Error("ERR_MODEL_FORMAT",
                  file.path() + ": batchNormEps: expected a number between 0 and 1, got " + it->second);
  }

  const std::vector<int64_t>& shape(const std::string& conv) const {
    const auto& shape = file_.get(prefix_ + conv + ".weight").shape;
    if (shape.size() != 4 || shape[0] < 1)
      throw Error("ERR_MODEL_FORMAT",
                  file_.path() + ": " + prefix_ + conv + ".weight: expected [out, in, k, k], got " + shapeText(shape));
    return shape;
  }
  bool has(const std::string& conv) const { return file_.find(prefix_ + conv + ".weight") != nullptr; }

  void fold(const std::string& convName, const std::string& normName, const std::vector<int64_t>& expected,
            float* weight, float* bias) const {
    const std::string conv = prefix_ + convName, norm = prefix_ + normName;
    const int64_t out = expected[0], perOutput = expected[1] * expected[2] * expected[3];
    file_.readFloats(conv + ".weight", expected, weight);
    const int64_t vectorShape[] = {out};
    if (file_.find(conv + ".bias") != nullptr) return file_.readFloats(conv + ".bias", vectorShape, bias);
    std::vector<float> gamma(static_cast<size_t>(out)), beta(gamma), mean(gamma), variance(gamma);
    file_.readFloats(norm + ".weight", vectorShape, gamma.data());
    file_.readFloats(norm + ".bias", vectorShape, beta.data());
    file_.readFloats(norm + ".running_mean", vectorShape, mean.data());
    file_.readFloats(norm + ".running_var", vectorShape, variance.data());
    for (int64_t o = 0; o < out; ++o) {
      const auto i = static_cast<size_t>(o);
      const double scale = static_cast<double>(gamma[i]) / std::sqrt(static_cast<double>(variance[i]) + eps_);
      for (int64_t k = 0; k < perOutput; ++k)
        weight[o * perOutput + k] = static_cast<float>(static_cast<double>(weight[o * perOutput + k]) * scale);
      bias[o] = static_cast<float>(static_cast<double>(beta[i]) - static_cast<double>(mean[i]) * scale);
    }
    // a negative variance, or one that is next to nothing
    const auto finite = [](float v) { return std::isfinite(v); };
    if (!std::all_of(weight, weight + out * perOutput, finite) || !std::all_of(bias, bias + out, finite))
      throw Error("ERR_MODEL_FORMAT", file_.path() + ": " + norm + ": expected statistics that leave weights finite");
  }

 private:
  const SafetensorsFile& file_;
  const std::string prefix_;
  double eps_ = 0;
};

class Builder {
 public:
  Builder(const SafetensorsFile& file, const std::string& prefix, int64_t maxStride)
      : file_(file), folder_(file, prefix), maxStride_(maxStride) {}

  Backbone build() {
    Graph& g = net_.graph;
    net_.input = g.addTensor("image", 3, 0);
    g.markInput(net_.input);
    TensorId h = conv("_conv_stem", "_bn0", net_.input, 3, 2, Activation::kRelu6, -1);
    int stage = 0;
    for (int block = 0; folder_.has(prefix(block) + "._depthwise_conv"); ++block) {
      // a block whose input is as wide as the one before it made continues a stage; a change of width starts one
      const int64_t out = folder_.shape(prefix(block) + "._project_conv")[0];
      const bool first = block == 0 || out != channels_;
      if (block > 0 && first && ++stage >= 7) refuse("expected at most seven stages of blocks");
      h = mbconv(prefix(block), h, out, first ? kStageStride[stage] : 1, kStageKernel[stage]);
      const std::string next = prefix(block + 1);
      const bool last = !folder_.has(next + "._depthwise_conv") || folder_.shape(next + "._project_conv")[0] != out;
      if (last && stage < kTappedStages && kTapAfter[stage]) {
        net_.taps.push_back({"block" + std::to_string(block), h, out, level_});
        g.markOutput(h);
        if (stage + 1 == kTappedStages || int64_t{1} << level_ == maxStride_) break;
      }
    }
    if (net_.taps.empty() || int64_t{1} << net_.taps.back().level != maxStride_)
      refuse("expected stages at stride 2 to " + std::to_string(maxStride_) + ", got " +
             std::to_string(net_.taps.size()) + " of them");
    net_.parameters = AlignedBuffer(g.parameterFloats());
    for (const Folding& f : foldings_)
      folder_.fold(f.conv, f.norm, f.shape, net_.parameters.data() + g.param(f.weight).offset,
                   net_.parameters.data() + g.param(f.bias).offset);
    return std::move(net_);
  }

 private:
  struct Folding {
    std::string conv, norm;
    std::vector<int64_t> shape;
    ParamId weight, bias;
  };

  static std::string prefix(int block) { return "_blocks." + std::to_string(block); }
  [[noreturn]] void refuse(const std::string& why) const { throw Error("ERR_MODEL_FORMAT", file_.path() + ": " + why); }

  TensorId conv(const std::string& name, const std::string& norm, TensorId x, int kernel, int stride,
                Activation activation, TensorId residual, bool depthwise = false) {
    Graph& g = net_.graph;
    std::vector<int64_t> shape = folder_.shape(name);
    const int64_t in = g.tensor(x).channels;
    const std::vector<int64_t> expected = {shape[0], depthwise ? 1 : in, kernel, kernel};
    if (shape != expected || (depthwise && shape[0] != in))
      refuse(name + ".weight: expected " + shapeText(expected) + ", got " + shapeText(shape));
    OpAttributes attr;
    attr.kernel = kernel;
    attr.stride = stride;
    // TensorFlow's SAME for even sizes: an odd pixel of padding goes after the image
    attr.pad = stride == 2 ? (kernel - 2) / 2 : (kernel - 1) / 2;
    attr.activation = activation;
    attr.residual = residual >= 0;
    std::vector<TensorId> inputs = {x};
    if (residual >= 0) inputs.push_back(residual);
    const ParamId weight = g.addParam(name + ".weight", expected), bias = g.addParam(name + ".bias", {shape[0]});
    foldings_.push_back({name, norm, expected, weight, bias});
    if (stride == 2) ++level_;
    return g.addOp(depthwise ? OpKind::kDepthwiseConv : OpKind::kConv, name, std::move(inputs), shape[0], level_,
                   {weight, bias}, attr);
  }

  TensorId mbconv(const std::string& name, TensorId x, int64_t out, int stride, int kernel) {
    TensorId h = x;
    if (folder_.has(name + "._expand_conv"))
      h = conv(name + "._expand_conv", name + "._bn0", h, 1, 1, Activation::kRelu6, -1);
    h = conv(name + "._depthwise_conv", name + "._bn1", h, kernel, stride, Activation::kRelu6, -1, true);
    const bool residual = stride == 1 && net_.graph.tensor(x).channels == out;
    h = conv(name + "._project_conv", name + "._bn2", h, 1, 1, Activation::kNone, residual ? x : -1);
    channels_ = out;
    return h;
  }

  const SafetensorsFile& file_;
  Folder folder_;
  Backbone net_;
  std::vector<Folding> foldings_;
  const int64_t maxStride_;
  int level_ = 0;
  int64_t channels_ = 0;
};

}  // namespace

Backbone loadBackbone(const SafetensorsFile& file, const std::string& prefix, int64_t maxStride) {
  return Builder(file, prefix, maxStride).build();
}

}  // namespace ddad
