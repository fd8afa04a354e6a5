#include "backbone/state_dict.h"

#include <cstdlib>

#include "base/error.h"

namespace ddad {
namespace {

constexpr const char* kSame = "same";
constexpr const char* kSymmetric = "symmetric";
constexpr const char* kRelu6Name = "relu6";
constexpr const char* kSwishName = "swish";

class Finder {
 public:
  Finder(const TensorSource& file, const std::string& prefix) : file_(file), prefix_(prefix) {}

  StateDict find() {
    if (has("conv_stem")) {
      dict_ = {StateDictFamily::kTimm, prefix_ + "conv_stem", prefix_ + "bn1", {}};
      findTimmBlocks();
    } else {
      dict_ = {StateDictFamily::kEfficientnetPytorch, prefix_ + "_conv_stem", prefix_ + "_bn0", {}};
      file_.shapeOf(dict_.stem + ".weight");
      findPytorchBlocks();
    }
    return std::move(dict_);
  }

 private:
  bool has(const std::string& layer) const { return file_.has(prefix_ + layer + ".weight"); }

  void findPytorchBlocks() {
    int64_t width = 0;
    int stage = -1;
    for (int i = 0;; ++i) {
      const std::string block = "_blocks." + std::to_string(i) + ".", at = prefix_ + block;
      if (!has(block + "_depthwise_conv")) return;
      // the names do not tell stages: each makes another width than the one before
      const auto& shape = file_.shapeOf(at + "_project_conv.weight");
      const int64_t out = shape.empty() ? 0 : shape[0];
      if (stage < 0 || out != width) ++stage;
      width = out;
      const bool expands = has(block + "_expand_conv"), squeezes = has(block + "_se_reduce");
      dict_.blocks.push_back({expands ? at + "_expand_conv" : "", at + "_bn0", at + "_depthwise_conv", at + "_bn1",
                              squeezes ? at + "_se_reduce" : "", at + "_se_expand", at + "_project_conv", at + "_bn2",
                              stage});
    }
  }

  void findTimmBlocks() {
    for (int stage = 0;; ++stage)
      for (int i = 0;; ++i) {
        const std::string block = "blocks." + std::to_string(stage) + "." + std::to_string(i) + ".",
                          at = prefix_ + block;
        if (!has(block + "conv_dw")) {
          if (i == 0) return;
          break;
        }
        // in blocks that do not expand, conv_pw is the projection, and the norms count from there
        const bool expands = has(block + "conv_pwl"), squeezes = has(block + "se.conv_reduce");
        dict_.blocks.push_back({expands ? at + "conv_pw" : "", at + "bn1", at + "conv_dw",
                                at + (expands ? "bn2" : "bn1"), squeezes ? at + "se.conv_reduce" : "",
                                at + "se.conv_expand", at + (expands ? "conv_pwl" : "conv_pw"),
                                at + (expands ? "bn3" : "bn2"), stage});
      }
  }

  const TensorSource& file_;
  const std::string& prefix_;
  StateDict dict_;
};

}  // namespace

StateDict findStateDict(const TensorSource& file, const std::string& prefix) { return Finder(file, prefix).find(); }

BackboneStyle readStyle(const TensorSource& file, const std::string& prefix, const StateDict& dict) {
  const auto refuse = [&](const std::string& key, const std::string& expected, const std::string& got) {
    throw Error("ERR_MODEL_FORMAT", file.path() + ": " + key + ": expected " + expected + ", got " + got.substr(0, 80));
  };
  /// Whether the value of `key` is the first of two, the default where there is none.
  const auto isFirst = [&](const std::string& key, const char* first, const char* second, bool otherwise) {
    const auto it = file.metadata().find(prefix + key);
    if (it == file.metadata().end()) return otherwise;
    if (it->second != first && it->second != second)
      refuse(prefix + key, std::string(first) + " or " + second, it->second);
    return it->second == first;
  };
  BackboneStyle style;
  const bool same = isFirst("paddingMode", kSame, kSymmetric, dict.family != StateDictFamily::kTimm);
  style.padding = same ? Padding::kSame : Padding::kSymmetric;
  style.activation =
      isFirst("activationFunction", kRelu6Name, kSwishName, !dict.squeezes()) ? Activation::kRelu6 : Activation::kSilu;
  style.batchNormEps = same ? 1e-3 : 1e-5;
  const auto eps = file.metadata().find(prefix + "batchNormEps");
  if (eps == file.metadata().end()) return style;
  style.batchNormEps = std::strtod(eps->second.c_str(), nullptr);
  if (!(style.batchNormEps > 0 && style.batchNormEps < 1))
    refuse(prefix + "batchNormEps", "a number between 0 and 1", eps->second);
  return style;
}

void appendStyle(const BackboneStyle& style, const std::string& prefix, std::map<std::string, std::string>& metadata) {
  metadata[prefix + "paddingMode"] = style.padding == Padding::kSame ? kSame : kSymmetric;
  metadata[prefix + "activationFunction"] = style.activation == Activation::kSilu ? kSwishName : kRelu6Name;
}

}  // namespace ddad
