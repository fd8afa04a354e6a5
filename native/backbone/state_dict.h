#pragma once
// EfficientNet state dicts in the names of the public implementations, and what the weights alone do not show.
#include <string>
#include <vector>

#include "file/tensor_source.h"
#include "graph/graph.h"

namespace ddad {

/// Names of the layers of an inverted bottleneck block, without ".weight"; empty where it has no such layer.
struct BlockNames {
  std::string expand, expandNorm;
  std::string depthwise, depthwiseNorm;
  std::string reduce, excite;  // squeeze-excite
  std::string project, projectNorm;
  int stage = 0;
};

/// Which implementation's names a file uses.
enum class StateDictFamily { kEfficientnetPytorch, kTimm };

struct StateDict {
  StateDictFamily family = StateDictFamily::kEfficientnetPytorch;
  std::string stem, stemNorm;
  std::vector<BlockNames> blocks;

  bool squeezes() const { return !blocks.empty() && !blocks.front().reduce.empty(); }
};

/// Finds the layers of the network stored after `prefix`. Throws ERR_MODEL_FORMAT where it has no stem in either
/// family's names.
StateDict findStateDict(const TensorSource& file, const std::string& prefix);

/// How a convolution of stride 2 pads an image of even size: as TensorFlow's SAME, the odd row and column of zeros
/// after the image, or alike on both sides.
enum class Padding { kSame, kSymmetric };

struct BackboneStyle {
  Padding padding = Padding::kSame;
  Activation activation = Activation::kRelu6;
  double batchNormEps = 1e-3;
};

/// Reads `paddingMode` (same, symmetric), `activationFunction` (relu6, swish) and `batchNormEps` from the file's
/// metadata, each after `prefix`. Where it has none: padding is symmetric in timm's names, same otherwise; the
/// activation is swish with squeeze-excite, relu6 without; epsilon is 1e-5 with symmetric padding, 1e-3 with same.
/// Throws ERR_MODEL_FORMAT for other values.
BackboneStyle readStyle(const TensorSource& file, const std::string& prefix, const StateDict& dict);

/// Adds what readStyle needs to know of a network whose batch norms are folded.
void appendStyle(const BackboneStyle& style, const std::string& prefix, std::map<std::string, std::string>& metadata);

}  // namespace ddad
