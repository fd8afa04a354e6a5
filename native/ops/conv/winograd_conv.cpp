#include "ops/conv/winograd_conv.h"

#include <algorithm>

#include "device/parallel.h"
#include "ops/conv/conv_gradients.h"
#include "ops/conv/winograd.h"
#include "ops/conv/winograd_gradient.h"

namespace ddad {
namespace {

class WinogradConv : public Op {
 public:
  explicit WinogradConv(OpContext context) : Op(std::move(context)), weightGradient_(context_) {
    const Shape &in = context_.in[0], &out = context_.out;
    forward_ = winogradShape(out.n, out.h, out.w, in.c, out.c);
    backward_ = winogradShape(out.n, out.h, out.w, out.c, in.c);
  }

  const char* kernelName() const override { return "winograd"; }
  bool backwardReadsInput(int i) const override { return i == 0; }
  bool mayOverwrite(int i) const override { return i == 1; }
  bool gradientPassesThrough(int i) const override { return i == 1; }
  double flops() const override {
    return 18.0 * static_cast<double>(context_.out.size()) * static_cast<double>(context_.in[0].c);
  }
  PackedLayout packedLayout() const override { return PackedLayout::kWinograd; }
  int64_t packedFloats() const override {
    return forward_.weightFloats() + (context_.inputGradient[0] ? backward_.weightFloats() : 0);
  }
  int64_t forwardWorkspaceFloats() const override { return threads() * forward_.scratchFloats(); }
  int64_t backwardWorkspaceFloats() const override {
    return std::max(threads() * backward_.scratchFloats(), weightGradient_.workspaceFloats());
  }

  void prepare() override {
    const int64_t in = context_.in[0].c;
    transformWeights(forward_, in * 9, 9, 0, buffers_.packed);
    if (context_.inputGradient[0]) transformWeights(backward_, 9, in * 9, 1, buffers_.packed + forward_.weightFloats());
  }

  void forward() override {
    run(forward_, buffers_.in[0], buffers_.packed, attr().bias ? buffers_.param[1] : nullptr,
        attr().residual ? buffers_.in[1] : nullptr, buffers_.out, buffers_.workspace);
  }

  void backward() override {
    if (context_.inputGradient[0])
      run(backward_, buffers_.outGrad, buffers_.packed + forward_.weightFloats(), nullptr,
          buffers_.accumulate[0] ? buffers_.inGrad[0] : nullptr, buffers_.inGrad[0], buffers_.backwardWorkspace);
    if (context_.paramGradient)
      weightGradient_.run(buffers_.in[0], buffers_.outGrad, buffers_.backwardWorkspace, buffers_.paramGrad[0],
                          attr().bias ? buffers_.paramGrad[1] : nullptr);
    addResidualGradient(context_, buffers_);
  }

 private:
  void transformWeights(const WinogradShape& shape, int64_t outStride, int64_t inStride, int flip, float* to) const {
    const auto kernel = DDAD_DISPATCH(winogradWeights);
    parallelFor(threads(), shape.paddedOut / shape.panel,
                [&](int64_t panel) { kernel(shape, buffers_.param[0], outStride, inStride, flip, panel, to); });
  }

  void run(const WinogradShape& shape, const float* x, const float* weights, const float* bias, const float* residual,
           float* y, float* scratch) const {
    const auto kernel = DDAD_DISPATCH(winogradBlock);
    parallelForWorker(threads(), shape.blocks(), [&](int64_t block, int worker) {
      kernel(shape, block, x, weights, bias, residual, y, scratch + worker * shape.scratchFloats());
    });
  }

  WinogradWeightGradient weightGradient_;
  WinogradShape forward_, backward_;
};

}  // namespace

bool winogradFits(const OpContext& context) {
  const OpAttributes& a = context.record->attr;
  return a.kernel == 3 && a.stride == 1 && a.pad == 1 && a.sources == 1 && a.activation == Activation::kNone;
}

bool winogradPreferred(const OpContext& context) {
  // Fewer input channels leave too little arithmetic to pay for the transforms, fewer tiles fill no block.
  const Shape& out = context.out;
  return winogradFits(context) && context.in[0].c >= 16 && out.h >= 3 && out.w >= 3 &&
         winogradShape(out.n, out.h, out.w, context.in[0].c, out.c).tiles() >= 12;
}

std::unique_ptr<Op> makeWinogradConv(OpContext context) { return std::make_unique<WinogradConv>(std::move(context)); }

}  // namespace ddad
