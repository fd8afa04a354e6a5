// Linear layer on vectors: y = f(x) W^T + b, W [out, in], f = SiLU or identity. Always on float32 values; the products
// are exact with precision float32 and TF32 else.
#include <algorithm>

#include "graph/op.h"
#include "ops/elementwise/kernels_cuda.h"
#include "ops/gemm/matmul_cuda.h"
#include "ops/linear/linear.h"

namespace ddad {
namespace {

class CudaLinear : public Op {
 public:
  explicit CudaLinear(OpContext context) : Op(std::move(context)), device_(cudaDevice(*context_.device)) {
    n_ = context_.out.n;
    in_ = context_.in[0].c;
    out_ = context_.out.c;
    MatmulSpec forward{.m = n_, .n = out_, .k = in_, .transposeB = true, .rowA = in_, .rowB = in_, .rowC = out_};
    forward.math = floatMath(device_);
    forward.bias = true;
    product_ = makeMatmul(context_, forward);
    if (!context_.training) return;
    if (context_.inputGradient[0]) {
      MatmulSpec data{.m = n_, .n = in_, .k = out_, .rowA = out_, .rowB = in_, .rowC = in_};
      data.math = floatMath(device_);
      data.adds = !attr().siluInput;
      dataGradient_ = makeMatmul(context_, data);
    }
    if (context_.paramGradient) {
      MatmulSpec weight{.m = out_, .n = in_, .k = n_, .transposeA = true, .rowA = out_, .rowB = in_, .rowC = in_};
      weight.math = floatMath(device_);
      weightGradient_ = makeMatmul(context_, weight);
    }
  }

  const char* kernelName() const override { return "cublaslt"; }
  double flops() const override { return 2.0 * static_cast<double>(n_ * in_ * out_); }
  int64_t savedFloats() const override { return attr().siluInput ? n_ * in_ : 0; }
  int64_t forwardWorkspaceFloats() const override { return product_->workspaceFloats(); }
  int64_t backwardWorkspaceFloats() const override {
    const int64_t data = dataGradient_ ? dataGradient_->workspaceFloats() : 0;
    const int64_t weight = weightGradient_ ? weightGradient_->workspaceFloats() : 0;
    return gradientFloats() + std::max(data, weight);
  }

  void forward() override {
    const float* x = buffers_.in[0];
    if (attr().siluInput) {
      activateCuda(device_, Activation::kSilu, x, buffers_.saved, false, n_ * in_);
      x = buffers_.saved;
    }
    product_->run(x, buffers_.param[0], buffers_.out, buffers_.workspace, 1.0f, 0.0f, nullptr, buffers_.param[1]);
  }

  void backward() override {
    float* const scratch = buffers_.backwardWorkspace + gradientFloats();
    if (weightGradient_) {
      const float* x = attr().siluInput ? buffers_.saved : buffers_.in[0];
      weightGradient_->run(buffers_.outGrad, x, buffers_.paramGrad[0], scratch);
      columnSumsCuda(device_, buffers_.outGrad, false, n_, out_, buffers_.paramGrad[1]);
    }
    if (!dataGradient_) return;
    float* const to = buffers_.inGrad[0];
    const bool add = buffers_.accumulate[0];
    if (!attr().siluInput)
      return dataGradient_->run(buffers_.outGrad, buffers_.param[0], to, scratch, 1.0f, add ? 1.0f : 0.0f, to);
    float* const dx = buffers_.backwardWorkspace;
    dataGradient_->run(buffers_.outGrad, buffers_.param[0], dx, scratch);
    activationGradientCuda(device_, Activation::kSilu, buffers_.in[0], dx, add ? dx : to, false, n_ * in_);
    if (add) convertChannelsCuda(device_, dx, false, in_, to, false, in_, n_, true);
  }

 private:
  /// Of the gradient before SiLU's.
  int64_t gradientFloats() const { return dataGradient_ && attr().siluInput ? (n_ * in_ + 63) / 64 * 64 : 0; }

  const CudaDevice& device_;
  int64_t n_, in_, out_;
  std::unique_ptr<Matmul> product_, dataGradient_, weightGradient_;
};

}  // namespace

std::unique_ptr<Op> makeCudaLinear(OpContext context) { return std::make_unique<CudaLinear>(std::move(context)); }

}  // namespace ddad
