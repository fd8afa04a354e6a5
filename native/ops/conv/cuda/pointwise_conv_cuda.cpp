// 1x1 convolutions: pixels are the rows of a matrix. Two sources are two products, the second added to the first.
#include <algorithm>
#include <vector>

#include "ops/conv/cuda/conv_cuda.h"

namespace ddad {
namespace {

class PointwiseConv : public CudaConv {
 public:
  explicit PointwiseConv(OpContext context) : CudaConv(std::move(context)) {
    const int64_t pixels = context_.out.pixels(), out = context_.out.c;
    addsResidual_ = attr().residual && residualHalf() == context_.outHalf;
    const DnnType operand = dnnType(half_);
    int64_t products = 0, gradients = 0, offset = 0;
    for (int s = 0; s < attr().sources; ++s) {
      const int64_t c = source(s).c;
      Part part;
      part.offset = offset;
      offset += c;
      part.staged = half_ && !sourceHalf(s);
      if (part.staged) part.stagedAt = forwardScratch_.take(floatsOf(pixels * c, true));
      const int weightAlignment = alignmentOf(part.offset * dnnBytes(operand));

      MatmulSpec forward{
          .m = pixels, .n = out, .k = c, .transposeB = true, .rowA = c, .rowB = inChannels_, .rowC = out};
      forward.in = operand;
      forward.out = dnnType(context_.outHalf);
      forward.math = math_;
      forward.bias = s == 0 && attr().bias;
      forward.adds = s > 0 || addsResidual_;
      forward.alignment = weightAlignment;
      part.product = makeMatmul(context_, forward);
      products = std::max(products, part.product->workspaceFloats());

      if (context_.training && sourceGradient(s)) {
        MatmulSpec data{.m = pixels, .n = c, .k = out, .rowA = out, .rowB = inChannels_, .rowC = c};
        data.in = operand;
        data.out = dnnType(sourceHalf(s));
        data.math = math_;
        data.adds = true;
        data.alignment = weightAlignment;
        part.dataGradient = makeMatmul(context_, data);
        gradients = std::max(gradients, part.dataGradient->workspaceFloats());
      }
      if (context_.training && context_.paramGradient) {
        MatmulSpec weight{
            .m = out, .n = c, .k = pixels, .transposeA = true, .rowA = out, .rowB = c, .rowC = inChannels_};
        weight.in = operand;
        weight.math = math_;
        weight.alignment = alignmentOf(part.offset * 4);
        part.weightGradient = makeMatmul(context_, weight);
        gradients = std::max(gradients, part.weightGradient->workspaceFloats());
        if (part.staged) part.backwardStagedAt = backwardScratch_.take(floatsOf(pixels * c, true));
      }
      parts_.push_back(std::move(part));
    }
    forwardAt_ = forwardScratch_.take(products);
    if (!context_.training) return;
    backwardAt_ = backwardScratch_.take(gradients);
    stagesGradient_ = half_ && !context_.outHalf && (context_.paramGradient || anyGradient());
    if (stagesGradient_) gradientAt_ = backwardScratch_.take(floatsOf(context_.out.size(), true));
  }

  const char* kernelName() const override { return "cublaslt"; }
  bool mayOverwrite(int i) const override { return i == attr().sources && addsResidual_; }

 protected:
  void convolve(void* target) override {
    const Shape& out = context_.out;
    const void* bias = nullptr;
    if (attr().bias) bias = context_.outHalf ? buffers_.paramHalf[1] : static_cast<const void*>(buffers_.param[1]);
    for (size_t s = 0; s < parts_.size(); ++s) {
      const Part& part = parts_[s];
      const void* x = buffers_.in[s];
      if (part.staged) x = stage(s, forwardScratch(part.stagedAt));
      const bool first = s == 0;
      const bool adds = !first || addsResidual_;
      part.product->run(x, weight(part), target, forwardScratch(forwardAt_), 1.0f, adds ? 1.0f : 0.0f,
                        first && addsResidual_ ? residual() : target, first ? bias : nullptr);
    }
    if (attr().residual && !addsResidual_)
      convertChannelsCuda(device_, residual(), residualHalf(), out.c, target, context_.outHalf, out.c, out.pixels(),
                          true);
    if (attr().activation != Activation::kNone && !separate_)
      activateCuda(device_, attr().activation, target, target, context_.outHalf, out.size());
  }

  void differentiate(const void* outGradient) override {
    if (stagesGradient_) {
      const Shape& out = context_.out;
      float* const to = backwardScratch(gradientAt_);
      convertChannelsCuda(device_, outGradient, false, out.c, to, true, out.c, out.pixels(), false);
      outGradient = to;
    }
    float* const scratch = buffers_.backwardWorkspace ? backwardScratch(backwardAt_) : nullptr;
    for (size_t s = 0; s < parts_.size(); ++s) {
      const Part& part = parts_[s];
      if (part.dataGradient)
        part.dataGradient->run(outGradient, weight(part), buffers_.inGrad[s], scratch, 1.0f,
                               buffers_.accumulate[s] ? 1.0f : 0.0f, buffers_.inGrad[s]);
      if (!part.weightGradient) continue;
      const void* x = buffers_.in[s];
      if (part.staged) x = stage(s, backwardScratch(part.backwardStagedAt));
      part.weightGradient->run(outGradient, x, buffers_.paramGrad[0] + part.offset, scratch);
    }
  }

 private:
  /// One source.
  struct Part {
    int64_t offset = 0;   // of its first channel among those of the weight
    bool staged = false;  // its values are rounded to bf16 first
    int64_t stagedAt = 0, backwardStagedAt = 0;
    std::unique_ptr<Matmul> product, dataGradient, weightGradient;
  };

  const void* weight(const Part& part) const {
    if (half_) return static_cast<const char*>(buffers_.paramHalf[0]) + 2 * part.offset;
    return buffers_.param[0] + part.offset;
  }

  const void* stage(size_t s, float* to) const {
    const Shape& in = context_.in[s];
    convertChannelsCuda(device_, buffers_.in[s], false, in.c, to, true, in.c, in.pixels(), false);
    return to;
  }

  std::vector<Part> parts_;
  bool addsResidual_ = false, stagesGradient_ = false;
  int64_t forwardAt_ = 0, backwardAt_ = 0, gradientAt_ = 0;
};

}  // namespace

bool isPointwise(const OpContext& context) {
  const OpAttributes& attr = context.record->attr;
  return attr.kernel == 1 && attr.stride == 1 && attr.pad == 0 && context.in[0].h == context.out.h &&
         context.in[0].w == context.out.w;
}

std::unique_ptr<Op> makeCudaPointwiseConv(OpContext context) {
  return std::make_unique<PointwiseConv>(std::move(context));
}

}  // namespace ddad
