// Backward through a ReLU6 fused into a convolution: the gradient is stopped where the output lies at 0 or 6, and goes
// on through whichever kernel computes the convolution.
#include <algorithm>

#include "device/parallel.h"
#include "ops/conv.h"
#include "ops/elementwise.h"

namespace ddad {
namespace {

class Relu6Conv : public Op {
 public:
  explicit Relu6Conv(std::unique_ptr<Op> conv) : Op(conv->context()), conv_(std::move(conv)) {
    maskedFloats_ = (context_.out.size() + 15) / 16 * 16;
  }

  const char* kernelName() const override { return conv_->kernelName(); }
  int64_t savedFloats() const override { return conv_->savedFloats(); }
  int64_t forwardWorkspaceFloats() const override { return conv_->forwardWorkspaceFloats(); }
  int64_t backwardWorkspaceFloats() const override { return maskedFloats_ + conv_->backwardWorkspaceFloats(); }
  int64_t packedFloats() const override { return conv_->packedFloats(); }
  bool backwardReadsInput(int i) const override { return conv_->backwardReadsInput(i); }
  bool backwardReadsOutput() const override { return true; }
  double flops() const override { return conv_->flops(); }

  void bind(const OpBuffers& buffers) override {
    buffers_ = buffers;
    OpBuffers inner = buffers;
    inner.outGrad = buffers.backwardWorkspace;
    inner.backwardWorkspace = buffers.backwardWorkspace + maskedFloats_;
    conv_->bind(inner);
  }
  void prepare() override { conv_->prepare(); }
  void forward() override { conv_->forward(); }

  void backward() override {
    const auto mask = DDAD_DISPATCH(relu6Gradient);
    const int64_t row = context_.out.w * context_.out.c;
    parallelFor(threads(), context_.out.n * context_.out.h, [&](int64_t i) {
      mask(buffers_.backwardWorkspace + i * row, buffers_.out + i * row, buffers_.outGrad + i * row, row);
    });
    conv_->backward();
  }

 private:
  const std::unique_ptr<Op> conv_;
  int64_t maskedFloats_;
};

}  // namespace

std::unique_ptr<Op> withRelu6Backward(std::unique_ptr<Op> conv) { return std::make_unique<Relu6Conv>(std::move(conv)); }

}  // namespace ddad
