// A convolution with an activation where backward is wanted: the plain convolution by whichever kernel, then f. The
// kernels themselves fuse f, but keep nothing of what backward needs.
#include "ops/conv/activated_conv.h"

#include "device/parallel.h"
#include "ops/elementwise/activation.h"

namespace ddad {
namespace {

class ActivatedConv : public Op {
 public:
  ActivatedConv(const OpContext& context, std::unique_ptr<Op> (*makePlain)(const OpContext&))
      : Op(context), plain_(*context.record) {
    plain_.attr.activation = Activation::kNone;
    OpContext inner = context;
    inner.record = &plain_;
    conv_ = makePlain(inner);
  }

  const char* kernelName() const override { return conv_->kernelName(); }
  bool backwardReadsInput(int i) const override { return conv_->backwardReadsInput(i); }
  bool backwardReadsOutput() const override { return !keepsArgument(); }
  double flops() const override { return conv_->flops(); }
  int64_t savedFloats() const override { return keepsArgument() ? context_.out.size() : 0; }
  PackedLayout packedLayout() const override { return conv_->packedLayout(); }
  int64_t packedFloats() const override { return conv_->packedFloats(); }
  int64_t forwardWorkspaceFloats() const override { return conv_->forwardWorkspaceFloats(); }
  int64_t backwardWorkspaceFloats() const override { return gradientFloats() + conv_->backwardWorkspaceFloats(); }

  void bind(const OpBuffers& buffers) override {
    Op::bind(buffers);
    OpBuffers inner = buffers;
    if (keepsArgument()) inner.out = buffers.saved;
    inner.saved = nullptr;
    inner.outGrad = buffers.backwardWorkspace;
    if (buffers.backwardWorkspace) inner.backwardWorkspace = buffers.backwardWorkspace + gradientFloats();
    conv_->bind(inner);
  }

  void prepare() override { conv_->prepare(); }

  void forward() override {
    conv_->forward();
    const float* x = keepsArgument() ? buffers_.saved : buffers_.out;
    const int64_t row = context_.out.w * context_.out.c;
    parallelFor(threads(), context_.out.n * context_.out.h,
                [&](int64_t i) { activate(attr().activation, x + i * row, buffers_.out + i * row, row); });
  }

  void backward() override {
    activationGradient(threads(), attr().activation, keepsArgument() ? buffers_.saved : buffers_.out, buffers_.outGrad,
                       buffers_.backwardWorkspace, context_.out.size());
    conv_->backward();
  }

 private:
  bool keepsArgument() const { return gradientReadsArgument(attr().activation); }
  int64_t gradientFloats() const { return (context_.out.size() + 15) / 16 * 16; }

  OpRecord plain_;
  std::unique_ptr<Op> conv_;
};

}  // namespace

std::unique_ptr<Op> makeActivatedConv(const OpContext& context, std::unique_ptr<Op> (*makePlain)(const OpContext&)) {
  return std::make_unique<ActivatedConv>(context, makePlain);
}

}  // namespace ddad
