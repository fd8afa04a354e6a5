#pragma once
// Convolutions as graphs of cuDNN: NHWC activations, weights as [out, kernel, kernel, in], sums in float32.
#include "graph/graph.h"
#include "ops/cudnn/dnn_graph_cuda.h"

namespace ddad {

/// A convolution of one source. Channels as they lie in memory.
struct ConvSpec {
  int64_t n, h, w, c;        // source
  int64_t outH, outW, outC;  // output
  int kernel, stride, pad;   // pad: rows and columns of zeros before the image
  DnnType type;              // of source, weight and the output's gradient
  DnnMath math;
  bool layoutOnly = false;  // asked for its memory alone: no engine is looked for
  bool operator==(const ConvSpec&) const = default;
  int64_t outPixels() const { return n * outH * outW; }
  int64_t weights() const { return outC * kernel * kernel * c; }
};

/// What is done to the sums of a convolution on their way out: + residual + bias, then f.
struct ConvEpilogue {
  DnnType out;
  bool bias = false;  // float32 [outC]
  bool residual = false;
  DnnType residualType = DnnType::kFloat32;
  Activation activation = Activation::kNone;
};

/// Tensors of the graphs.
enum ConvTensor : int64_t {
  kConvSource = 1,
  kConvWeight,
  kConvOut,
  kConvBias,
  kConvResidual,
  kConvOutGradient,
  kConvSourceGradient,
  kConvWeightGradient
};

/// Null, and the reason in `why`, where cuDNN has no engine for it.
std::shared_ptr<const DnnGraph> convForward(const CudaDevice& device, const ConvSpec& spec,
                                            const ConvEpilogue& epilogue, std::string* why);
/// kConvOutGradient and kConvWeight to kConvSourceGradient, both of the convolution's type.
std::shared_ptr<const DnnGraph> convDataGradient(const CudaDevice& device, const ConvSpec& spec, std::string* why);
/// kConvOutGradient and kConvSource to kConvWeightGradient, of type `out`.
std::shared_ptr<const DnnGraph> convWeightGradient(const CudaDevice& device, const ConvSpec& spec, DnnType out,
                                                   std::string* why);

}  // namespace ddad
