#pragma once
// What the convolutions of the GPU have in common: activation, bias gradient, residual; see ops/conv/conv.h for what a
// convolution is.
#include <string>

#include "graph/op.h"
#include "graph/scratch_layout.h"
#include "ops/conv/cuda/conv_graph_cuda.h"
#include "ops/elementwise/kernels_cuda.h"
#include "ops/gemm/matmul_cuda.h"

namespace ddad {

class CudaConv : public Op {
 public:
  explicit CudaConv(OpContext context);

  bool backwardReadsInput(int i) const override { return context_.paramGradient && i < attr().sources; }
  bool backwardReadsOutput() const override { return separate_ && !keepsArgument_; }
  bool gradientPassesThrough(int i) const override { return attr().residual && i == attr().sources; }
  double flops() const override;
  int64_t savedFloats() const override { return keepsArgument_ ? floatsOf(context_.out.size(), context_.outHalf) : 0; }
  int64_t forwardWorkspaceFloats() const override { return forwardScratch_.floats(); }
  int64_t backwardWorkspaceFloats() const override { return backwardScratch_.floats(); }

  void forward() override;
  void backward() override;

 protected:
  /// Writes the convolution with bias and residual, and with the activation unless it is separate, to `target`, of the
  /// output's type.
  virtual void convolve(void* target) = 0;
  /// Gradients of the sources and the weight, given that of what convolve writes, of the output's type.
  virtual void differentiate(const void* outGradient) = 0;

  Shape source(int s) const { return context_.in[static_cast<size_t>(s)]; }
  bool sourceHalf(int s) const { return context_.inHalf[static_cast<size_t>(s)]; }
  bool sourceGradient(int s) const { return context_.inputGradient[static_cast<size_t>(s)]; }
  bool anyGradient() const;
  bool residualHalf() const { return sourceHalf(attr().sources); }
  const void* residual() const { return buffers_.in[static_cast<size_t>(attr().sources)]; }
  float* forwardScratch(int64_t at) const { return buffers_.workspace + at; }
  float* backwardScratch(int64_t at) const { return buffers_.backwardWorkspace + at; }
  [[noreturn]] void fail(const std::string& pass, const std::string& why) const;

  const CudaDevice& device_;
  bool half_;      // products of bf16 operands
  DnnMath math_;   // of products of float32 operands
  bool separate_;  // the activation is done after the convolution: backward needs what it was applied to
  bool keepsArgument_;
  int64_t inChannels_ = 0;  // of all sources
  ScratchLayout forwardScratch_, backwardScratch_;

 private:
  int64_t activationGradientAt_ = 0;
};

/// 1x1 convolutions with stride 1: matrix products over pixels.
bool isPointwise(const OpContext& context);
std::unique_ptr<Op> makeCudaPointwiseConv(OpContext context);
/// All others, through cuDNN.
std::unique_ptr<Op> makeCudaSpatialConv(OpContext context);

}  // namespace ddad
