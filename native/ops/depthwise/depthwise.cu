// Depthwise convolution on the GPU, float32: it is the backbone's. See ops/depthwise/depthwise.cpp.
#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"
#include "ops/depthwise/depthwise.h"
#include "ops/depthwise/depthwise_grid.h"
#include "ops/elementwise/kernels_cuda.h"

namespace ddad {
namespace {

class CudaDepthwiseConv : public Op {
 public:
  explicit CudaDepthwiseConv(OpContext context) : Op(std::move(context)) {
    if (context_.inHalf[0] || context_.outHalf)
      throw Error("ERR_INTERNAL", context_.record->name + ": a depthwise convolution of bf16 was asked for");
    const Shape &in = context_.in[0], &out = context_.out;
    place_ = {in.n, in.h, in.w, out.h, out.w, out.c, attr().kernel, attr().stride, attr().pad};
  }

  double flops() const override {
    return 2.0 * static_cast<double>(context_.out.size()) * attr().kernel * attr().kernel;
  }
  bool backwardReadsInput(int) const override { return context_.paramGradient; }
  bool backwardReadsOutput() const override { return activates() && !keepsArgument(); }
  int64_t savedFloats() const override { return keepsArgument() ? context_.out.size() : 0; }
  int64_t backwardWorkspaceFloats() const override { return activates() ? context_.out.size() : 0; }

  void forward() override {
    const DepthwiseForward kernel{place_,
                                  buffers_.in[0],
                                  buffers_.param[0],
                                  attr().bias ? buffers_.param[1] : nullptr,
                                  keepsArgument() ? buffers_.saved : nullptr,
                                  buffers_.out,
                                  attr().activation};
    launchGrid(device().stream(), kernel);
  }

  void backward() override {
    const float* gradient = buffers_.outGrad;
    if (activates()) {
      activationGradientCuda(device(), attr().activation, keepsArgument() ? buffers_.saved : buffers_.out, gradient,
                             buffers_.backwardWorkspace, false, context_.out.size());
      gradient = buffers_.backwardWorkspace;
    }
    if (context_.inputGradient[0]) {
      const DepthwiseDataGradient kernel{place_, gradient, buffers_.param[0], buffers_.inGrad[0],
                                         static_cast<bool>(buffers_.accumulate[0])};
      launchGrid(device().stream(), kernel);
    }
    if (!context_.paramGradient) return;
    const DepthwiseWeightGradient kernel{place_, buffers_.in[0], gradient, buffers_.paramGrad[0]};
    launchGrid(device().stream(), kernel);
    if (attr().bias)
      columnSumsCuda(device(), gradient, false, context_.out.pixels(), context_.out.c, buffers_.paramGrad[1]);
  }

 private:
  const CudaDevice& device() const { return cudaDevice(*context_.device); }
  bool activates() const { return attr().activation != Activation::kNone; }
  bool keepsArgument() const { return context_.training && attr().activation == Activation::kSilu; }

  DepthwisePlace place_{};
};

}  // namespace

std::unique_ptr<Op> makeCudaDepthwiseConv(OpContext context) {
  return std::make_unique<CudaDepthwiseConv>(std::move(context));
}

}  // namespace ddad
