// Linear layer on vectors: y = f(x) W^T + b, W [out, in], f = SiLU or identity.

#include "ops/linear/linear.h"

#include "ops/elementwise/elementwise.h"
#include "ops/gemm/gemm.h"

namespace ddad {
namespace {

class Linear : public Op {
 public:
  explicit Linear(OpContext context) : Op(std::move(context)) {
    n_ = context_.out.n;
    in_ = context_.in[0].c;
    out_ = context_.out.c;
  }

  double flops() const override { return 2.0 * static_cast<double>(n_ * in_ * out_); }
  int64_t savedFloats() const override { return attr().siluInput ? n_ * in_ : 0; }
  PackedLayout packedLayout() const override { return PackedLayout::kGemmPanels; }
  int64_t packedFloats() const override {
    return align(gemmPackedSize(in_, out_)) + (context_.inputGradient[0] ? gemmPackedSize(out_, in_) : 0);
  }
  int64_t backwardWorkspaceFloats() const override { return n_ * in_ + 2 * align(n_); }

  void prepare() override {
    gemmPack(buffers_.param[0], 1, in_, in_, out_, buffers_.packed);
    if (context_.inputGradient[0])
      gemmPack(buffers_.param[0], in_, 1, out_, in_, buffers_.packed + align(gemmPackedSize(in_, out_)));
  }

  void forward() override {
    const float* x = buffers_.in[0];
    if (attr().siluInput) {
      DDAD_DISPATCH(siluForward)(buffers_.saved, x, n_ * in_);
      x = buffers_.saved;
    }
    const GemmEpilogue epilogue = {buffers_.param[1], nullptr, 0, 1.0f, 0};
    DDAD_DISPATCH(gemmRows)(matrixRows(x, in_, n_, in_), 0, n_, buffers_.packed, out_, buffers_.out, out_, epilogue);
  }

  void backward() override {
    float* dx = buffers_.backwardWorkspace;
    const float* x = attr().siluInput ? buffers_.saved : buffers_.in[0];
    if (context_.paramGradient) {
      // dW[o, i] = sum over samples of dy[n, o] x[n, i]
      auto** rows = reinterpret_cast<const float**>(dx + n_ * in_);
      for (int64_t i = 0; i < n_; ++i) rows[i] = buffers_.outGrad + i * out_;
      DDAD_DISPATCH(gemmOuter)(rows, 0, out_, x, in_, in_, n_, buffers_.paramGrad[0], in_, 0);
      DDAD_DISPATCH(columnSums)(buffers_.outGrad, n_, out_, out_, buffers_.paramGrad[1]);
    }
    if (!context_.inputGradient[0]) return;
    const bool silu = attr().siluInput;
    const GemmEpilogue epilogue = {nullptr, !silu && buffers_.accumulate[0] ? buffers_.inGrad[0] : nullptr, in_, 1.0f,
                                   0};
    DDAD_DISPATCH(gemmRows)
    (matrixRows(buffers_.outGrad, out_, n_, out_), 0, n_, buffers_.packed + align(gemmPackedSize(in_, out_)), in_,
     silu ? dx : buffers_.inGrad[0], in_, epilogue);
    if (silu) DDAD_DISPATCH(siluBackward)(buffers_.inGrad[0], buffers_.in[0], dx, n_ * in_, buffers_.accumulate[0]);
  }

 private:
  static int64_t align(int64_t n) { return (n + 15) / 16 * 16; }

  int64_t n_, in_, out_;
};

}  // namespace

std::unique_ptr<Op> makeLinear(OpContext context) { return std::make_unique<Linear>(std::move(context)); }

}  // namespace ddad
