// Depthwise convolution of the backbone: weight [C, 1, k, k], bias (the folded batch norm), an activation.
#include "ops/depthwise/depthwise.h"

#include <algorithm>
#include <cstring>

#include "device/parallel.h"
#include "ops/depthwise/depthwise_kernels.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace {

constexpr int64_t kRowsPerPartial = 16;  // output rows summed into one partial weight gradient

class DepthwiseConv : public Op {
 public:
  explicit DepthwiseConv(OpContext context) : Op(std::move(context)) {
    channels_ = context_.out.c;
    taps_ = int64_t{attr().kernel} * attr().kernel;
  }

  double flops() const override { return 2.0 * static_cast<double>(context_.out.size() * taps_); }
  PackedLayout packedLayout() const override { return PackedLayout::kTapsFirst; }
  int64_t packedFloats() const override { return taps_ * channels_; }
  bool backwardReadsInput(int) const override { return context_.paramGradient; }
  bool backwardReadsOutput() const override { return activated() && !keepsArgument(); }
  int64_t savedFloats() const override { return keepsArgument() ? context_.out.size() : 0; }
  int64_t backwardWorkspaceFloats() const override {
    return context_.out.size() + partials() * taps_ * channels_ + channels_ * (context_.out.pixels() / kSumRows + 1);
  }

  void prepare() override {
    for (int64_t c = 0; c < channels_; ++c)
      for (int64_t t = 0; t < taps_; ++t) buffers_.packed[t * channels_ + c] = buffers_.param[0][c * taps_ + t];
  }

  void forward() override {
    const auto kernel = DDAD_DISPATCH(depthwiseForwardRow);
    const Shape &in = context_.in[0], &out = context_.out;
    parallelFor(threads(), out.n * out.h, [&](int64_t i) {
      const int64_t at = i * out.w * out.c;
      float *y = buffers_.out + at, *sum = keepsArgument() ? buffers_.saved + at : y;
      kernel(row(i % out.h), buffers_.in[0] + i / out.h * in.h * in.w * in.c, buffers_.packed,
             attr().bias ? buffers_.param[1] : nullptr, sum, attr().activation == Activation::kRelu6);
      if (attr().activation == Activation::kSilu) activate(Activation::kSilu, sum, y, out.w * out.c);
    });
  }

  void backward() override {
    const Shape &in = context_.in[0], &out = context_.out;
    const float* gradient = buffers_.outGrad;
    float* workspace = buffers_.backwardWorkspace;
    if (activated()) {
      activationGradient(threads(), attr().activation, keepsArgument() ? buffers_.saved : buffers_.out, gradient,
                         workspace, out.size());
      gradient = workspace;
    }
    if (context_.inputGradient[0]) {
      const auto kernel = DDAD_DISPATCH(depthwiseDataRow);
      parallelFor(threads(), out.n, [&](int64_t n) {  // rows of one sample overlap: one thread a sample
        float* to = buffers_.inGrad[0] + n * in.h * in.w * in.c;
        if (!buffers_.accumulate[0]) std::memset(to, 0, static_cast<size_t>(in.h * in.w * in.c) * sizeof(float));
        for (int64_t y = 0; y < out.h; ++y)
          kernel(row(y), buffers_.packed, gradient + (n * out.h + y) * out.w * out.c, to);
      });
    }
    if (context_.paramGradient) weightGradient(gradient, workspace + out.size());
  }

 private:
  bool activated() const { return attr().activation != Activation::kNone; }
  bool keepsArgument() const { return context_.training && gradientReadsArgument(attr().activation); }
  int64_t partials() const { return (context_.out.n * context_.out.h + kRowsPerPartial - 1) / kRowsPerPartial; }

  DepthwiseRow row(int64_t y) const {
    const Shape& in = context_.in[0];
    return {channels_, in.h, in.w, context_.out.w, attr().kernel, attr().stride, attr().pad, y};
  }

  void weightGradient(const float* gradient, float* workspace) {
    const auto kernel = DDAD_DISPATCH(depthwiseWeightRow);
    const Shape &in = context_.in[0], &out = context_.out;
    const int64_t size = taps_ * channels_;
    parallelFor(threads(), partials(), [&](int64_t p) {
      float* sums = workspace + p * size;
      std::memset(sums, 0, static_cast<size_t>(size) * sizeof(float));
      const int64_t last = std::min((p + 1) * kRowsPerPartial, out.n * out.h);
      for (int64_t i = p * kRowsPerPartial; i < last; ++i)
        kernel(row(i % out.h), buffers_.in[0] + i / out.h * in.h * in.w * in.c, gradient + i * out.w * out.c, sums);
    });
    for (int64_t c = 0; c < channels_; ++c)
      for (int64_t t = 0; t < taps_; ++t) {
        double sum = 0;
        for (int64_t p = 0; p < partials(); ++p) sum += static_cast<double>(workspace[p * size + t * channels_ + c]);
        buffers_.paramGrad[0][c * taps_ + t] = static_cast<float>(sum);
      }
    if (attr().bias)
      sumColumns(threads(), gradient, out.pixels(), channels_, workspace + partials() * size, buffers_.paramGrad[1]);
  }

  int64_t channels_, taps_;
};

}  // namespace

std::unique_ptr<Op> makeDepthwiseConv(OpContext context) { return std::make_unique<DepthwiseConv>(std::move(context)); }

}  // namespace ddad
