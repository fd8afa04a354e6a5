#pragma once
// Convolution, NHWC activations, OIHW weights: kernels of one to seven, stride 1 or 2, bias, a residual added on the
// way out, and (1x1 only) two sources that stand for their concatenation.
#include "device/choices.h"
#include "graph/op.h"

namespace ddad {

std::unique_ptr<Op> makeConv(const OpContext& context);
/// On the GPU.
std::unique_ptr<Op> makeCudaConv(OpContext context);

/// Which kernel computes convolutions; kAuto takes the one measured fastest for the shape.
enum class ConvKernel { kAuto, kDirect, kWinograd, kOnednn };
constexpr int kConvKernels = 4;
const char* convKernelName(ConvKernel kernel);

/// Forces one kernel for everything that it can do; from DDAD_CONV (auto, direct, winograd or onednn) at start.
void setConvKernel(ConvKernel kernel);
ConvKernel convKernel();

/// Adds the output's gradient to that of the residual, where it does not lie there already.
void addResidualGradient(const OpContext& context, const OpBuffers& buffers);

/// Winograd takes 3x3 convolutions with stride 1 and padding 1 of one source.
bool winogradFits(const OpContext& context);
/// Whether it usually is the fastest then.
bool winogradPays(const OpContext& context);
std::unique_ptr<Op> makeWinogradConv(OpContext context);

/// Convolution with an activation and backward: the kernels below have an activation in inference only.
std::unique_ptr<Op> makeActivatedConv(const OpContext& context);

/// Convolution by that kernel; null where it cannot do it. kAuto is not a kernel.
std::unique_ptr<Op> makeConvWith(ConvKernel kernel, const OpContext& context);

/// The kernel that a table kept on disk names for a convolution like this one. Where it names none, the candidates are
/// timed and the table gains a line: `usual`, unless another one is faster by a tenth. `usual` where there is no table.
ConvKernel tunedConvKernel(const OpContext& context, ConvKernel usual, Choices& choices);

/// Null where oneDNN has no such convolution (two sources; a few shapes in a few instruction sets).
std::unique_ptr<Op> makeOnednnConv(const OpContext& context);

/// wgrad shared by the kernels: the weight gradient as a sum over pixels of outer products, read from NHWC directly.
class ConvWeightGradient {
 public:
  explicit ConvWeightGradient(const OpContext& context);
  int64_t workspaceFloats() const;
  /// Gradients of weight (OIHW) and, where `biasGrad` is not null, of bias.
  void run(const std::vector<const float*>& sources, const float* outGrad, float* workspace, const float* zeros,
           float* weightGrad, float* biasGrad) const;

 private:
  void runShare(int64_t first, int64_t last, int worker, const std::vector<const float*>& sources, const float* outGrad,
                float* workspace, const float* zeros) const;

  const OpContext& context_;
  int64_t taps_, inChannels_, outChannels_, chunk_, paddedColumns_, gradFloats_, biasFloats_, workerFloats_;
};

}  // namespace ddad
