#pragma once
// A network as data: a list of op records over named tensors and parameters. unet/ and backbone/ write such lists;
// the plan (memory, kernels, backward), the FLOP count and exports read them.
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

namespace ddad {

using TensorId = int;
using ParamId = int;

/// An activation. Spatial tensors are NHWC [batch, H >> level, W >> level, channels] (rounded up); a vector tensor
/// (level == kVector) is [batch, channels].
struct TensorSpec {
  static constexpr int kVector = -1;
  std::string name;
  int64_t channels;
  int level;
};

/// A parameter, in the name, shape and row-major layout of guided-diffusion checkpoints.
struct ParamSpec {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset;  // floats from the start of the parameter block
  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

enum class OpKind {
  kConv,               // inputs: 1 or 2 sources (their concatenation), [residual]; params: weight OIHW, [bias]
  kDepthwiseConv,      // inputs: source; params: weight [C,1,k,k], [bias]
  kGroupNorm,          // inputs: 1 or 2 sources, [embedding vector]; params: weight, bias
  kLinear,             // inputs: vector; params: weight [out,in], bias
  kTimestepEmbedding,  // inputs: t [batch,1]
  kLabelEmbedding,     // inputs: vector, labels [batch,1]; params: table [classes, C]; output: vector + table[label]
  kAttention,          // inputs: qkv
  kUpsample,           // nearest, factor 2
  kAvgPool,            // 2x2
  kSqueezeExcite,      // inputs: source; params: reduce [R,C,1,1], bias [R], expand [C,R,1,1], bias [C]
};

enum class EmbeddingMode { kNone, kScaleShift, kAdd };
enum class Activation { kNone, kSilu, kRelu6 };

struct OpAttributes {
  int sources = 1;        // conv, group norm: how many leading inputs are concatenated along the channels
  int kernel = 1;         // conv
  int stride = 1;         // conv
  int pad = 0;            // conv: rows and columns of zeros before the image (those after follow from the output size)
  bool bias = true;       // conv
  bool residual = false;  // conv: the last input is added
  Activation activation = Activation::kNone;       // conv, squeeze-excite (of the reduced vector), group norm (silu)
  EmbeddingMode embedding = EmbeddingMode::kNone;  // group norm: scale-shift after the norm, or a vector added before
  bool siluInput = false;                          // linear
  int groups = 32;                                 // group norm
  float eps = 1e-5f;                               // group norm
  int heads = 1;                                   // attention
  int classes = 0;                                 // label embedding
  int64_t reduced = 0;                             // squeeze-excite: R, the width between its two layers
  bool splitBeforeHeads = false;                   // attention: [q|k|v][head] (new order) or [head][q|k|v]
};

struct OpRecord {
  OpKind kind;
  std::string name;
  std::vector<TensorId> inputs;
  TensorId output;
  std::vector<ParamId> params;
  OpAttributes attr;
};

class Graph {
 public:
  TensorId addTensor(std::string name, int64_t channels, int level);
  ParamId addParam(std::string name, std::vector<int64_t> shape);
  /// Appends an op and its output tensor; returns the tensor.
  TensorId addOp(OpKind kind, std::string name, std::vector<TensorId> inputs, int64_t outChannels, int outLevel,
                 std::vector<ParamId> params, OpAttributes attr = {});
  void markInput(TensorId id) { inputs_.push_back(id); }
  void markOutput(TensorId id) { outputs_.push_back(id); }

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  const std::vector<ParamSpec>& params() const { return params_; }
  const std::vector<OpRecord>& ops() const { return ops_; }
  const std::vector<TensorId>& inputs() const { return inputs_; }
  const std::vector<TensorId>& outputs() const { return outputs_; }
  const TensorSpec& tensor(TensorId id) const { return tensors_[static_cast<size_t>(id)]; }
  const ParamSpec& param(ParamId id) const { return params_[static_cast<size_t>(id)]; }
  /// Floats of the parameter block: every parameter starts on a 64-byte boundary.
  int64_t parameterFloats() const { return parameterFloats_; }
  /// Largest level: heights and widths must be multiples of 1 << maxLevel().
  int maxLevel() const;

 private:
  std::vector<TensorSpec> tensors_;
  std::vector<ParamSpec> params_;
  std::vector<OpRecord> ops_;
  std::vector<TensorId> inputs_, outputs_;
  std::unordered_set<std::string> names_;
  int64_t parameterFloats_ = 0;
};

}  // namespace ddad
