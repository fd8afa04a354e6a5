#include "ops/conv/direct_conv.h"

#include <algorithm>
#include <cstring>

#include "device/parallel.h"
#include "ops/conv/conv_gradients.h"
#include "ops/elementwise/activation.h"
#include "ops/gemm/gemm.h"

namespace ddad {
namespace {

/// Direct convolution: a matrix product whose rows are found through pointers, nothing gathered.
class DirectConv : public Op {
 public:
  explicit DirectConv(OpContext context) : Op(std::move(context)), weightGradient_(context_) {
    taps_ = int64_t{attr().kernel} * attr().kernel;
    for (int s = 0; s < attr().sources; ++s) inChannels_ += context_.in[static_cast<size_t>(s)].c;
    widest_ = std::max(inChannels_, context_.out.c);
    dilated_ = attr().stride > 1;
  }

  const char* kernelName() const override { return "direct"; }
  bool backwardReadsInput(int i) const override { return context_.paramGradient && i < attr().sources; }
  bool mayOverwrite(int i) const override { return attr().residual && i == attr().sources; }
  bool gradientPassesThrough(int i) const override { return attr().residual && i == attr().sources; }
  double flops() const override {
    return 2.0 * static_cast<double>(context_.out.size()) * static_cast<double>(taps_ * inChannels_);
  }

  PackedLayout packedLayout() const override { return PackedLayout::kGemmPanels; }
  int64_t packedFloats() const override {
    int64_t n = align(widest_);  // zeros: what lies outside the image
    for (int s = 0; s < attr().sources; ++s) {
      const int64_t c = context_.in[static_cast<size_t>(s)].c;
      n += align(gemmPackedSize(taps_ * c, context_.out.c));
      if (context_.inputGradient[static_cast<size_t>(s)]) n += align(gemmPackedSize(taps_ * context_.out.c, c));
    }
    return n;
  }

  int64_t backwardWorkspaceFloats() const override {
    return weightGradient_.workspaceFloats() + (dilated_ ? dilatedShape().size() : 0);
  }

  void prepare() override {
    float* packed = buffers_.packed;
    std::memset(packed, 0, static_cast<size_t>(widest_) * sizeof(float));
    packed += align(widest_);
    int64_t offset = 0;
    for (int s = 0; s < attr().sources; ++s) {
      const int64_t c = context_.in[static_cast<size_t>(s)].c;
      packWeights(packed, c, offset, false);
      packed += align(gemmPackedSize(taps_ * c, context_.out.c));
      if (context_.inputGradient[static_cast<size_t>(s)]) {
        packWeights(packed, c, offset, true);
        packed += align(gemmPackedSize(taps_ * context_.out.c, c));
      }
      offset += c;
    }
  }

  void forward() override {
    const Shape& out = context_.out;
    const float* packed = buffers_.packed + align(widest_);
    const float* residual = attr().residual ? buffers_.in[static_cast<size_t>(attr().sources)] : nullptr;
    for (int s = 0; s < attr().sources; ++s) {
      const Shape& in = context_.in[static_cast<size_t>(s)];
      const bool last = s + 1 == attr().sources;
      const GemmRowSource rows = {buffers_.in[static_cast<size_t>(s)],
                                  buffers_.packed,
                                  in.c,
                                  static_cast<int>(in.h),
                                  static_cast<int>(in.w),
                                  static_cast<int>(out.h),
                                  static_cast<int>(out.w),
                                  attr().kernel,
                                  attr().stride,
                                  attr().pad,
                                  in.c};
      const GemmEpilogue epilogue = {last && attr().bias ? buffers_.param[1] : nullptr, s > 0 ? buffers_.out : residual,
                                     out.c, 1.0f, last && attr().activation == Activation::kRelu6};
      const bool silu = last && attr().activation == Activation::kSilu;
      multiply(rows, packed, out.c, out.pixels(), buffers_.out, epilogue, silu);
      packed += align(gemmPackedSize(taps_ * in.c, out.c));
      if (context_.inputGradient[static_cast<size_t>(s)]) packed += align(gemmPackedSize(taps_ * out.c, in.c));
    }
  }

  void backward() override {
    const float* packed = buffers_.packed + align(widest_);
    const float* gradient = buffers_.outGrad;
    Shape source = context_.out;
    if (dilated_) {
      float* dilated = buffers_.backwardWorkspace + weightGradient_.workspaceFloats();
      spread(dilated);
      gradient = dilated;
      source = dilatedShape();
    }
    for (int s = 0; s < attr().sources; ++s) {
      const auto index = static_cast<size_t>(s);
      const Shape& in = context_.in[index];
      packed += align(gemmPackedSize(taps_ * in.c, context_.out.c));
      if (!context_.inputGradient[index]) continue;
      const GemmRowSource rows = {gradient,
                                  buffers_.packed,
                                  source.c,
                                  static_cast<int>(source.h),
                                  static_cast<int>(source.w),
                                  static_cast<int>(in.h),
                                  static_cast<int>(in.w),
                                  attr().kernel,
                                  1,
                                  attr().kernel - 1 - attr().pad,
                                  source.c};
      const GemmEpilogue epilogue = {nullptr, buffers_.accumulate[index] ? buffers_.inGrad[index] : nullptr, in.c, 1.0f,
                                     0};
      multiply(rows, packed, in.c, in.pixels(), buffers_.inGrad[index], epilogue);
      packed += align(gemmPackedSize(taps_ * context_.out.c, in.c));
    }
    if (context_.paramGradient)
      weightGradient_.run(buffers_.in, buffers_.outGrad, buffers_.backwardWorkspace, buffers_.packed,
                          buffers_.paramGrad[0], attr().bias ? buffers_.paramGrad[1] : nullptr);
    addResidualGradient(context_, buffers_);
  }

 private:
  static int64_t align(int64_t n) { return (n + 15) / 16 * 16; }

  /// Shape of the output gradient with stride - 1 zeros between its rows and columns.
  Shape dilatedShape() const {
    const Shape& out = context_.out;
    return {out.n, (out.h - 1) * attr().stride + 1, (out.w - 1) * attr().stride + 1, out.c};
  }

  void spread(float* dilated) const {
    const Shape wide = dilatedShape();
    const Shape& out = context_.out;
    parallelFor(threads(), wide.n * wide.h, [&](int64_t row) {
      float* to = dilated + row * wide.w * wide.c;
      std::memset(to, 0, static_cast<size_t>(wide.w * wide.c) * sizeof(float));
      const int64_t y = row % wide.h;
      if (y % attr().stride) return;
      const float* from = buffers_.outGrad + ((row / wide.h) * out.h + y / attr().stride) * out.w * out.c;
      for (int64_t x = 0; x < out.w; ++x)
        std::memcpy(to + x * attr().stride * out.c, from + x * out.c, static_cast<size_t>(out.c) * sizeof(float));
    });
  }

  /// Weights of one source as rows (tap, input channel) by columns (output channel), or flipped and transposed for the
  /// gradient of the data.
  void packWeights(float* packed, int64_t channels, int64_t offset, bool transposed) const {
    const float* w = buffers_.param[0];
    const int64_t out = context_.out.c, n = transposed ? channels : out, k = transposed ? out : channels;
    const int64_t panel = gemmPanel(n), panels = (n + panel - 1) / panel;
    const int64_t nStride = transposed ? taps_ : inChannels_ * taps_,
                  kStride = transposed ? inChannels_ * taps_ : taps_;
    w += offset * taps_;
    parallelFor(threads(), panels, [&](int64_t p) {
      float* to = packed + p * panel * taps_ * k;
      for (int64_t tap = 0; tap < taps_; ++tap)
        for (int64_t i = 0; i < k; ++i)
          for (int64_t j = 0; j < panel; ++j) {
            const int64_t column = p * panel + j;
            *to++ = column < n ? w[column * nStride + i * kStride + (transposed ? taps_ - 1 - tap : tap)] : 0.0f;
          }
    });
  }

  void multiply(const GemmRowSource& rows, const float* packed, int64_t columns, int64_t pixels, float* to,
                const GemmEpilogue& epilogue, bool silu = false) const {
    const auto kernel = DDAD_DISPATCH(gemmRows);
    const int64_t tile = gemmRowTile(columns) * 8, chunks = (pixels + tile - 1) / tile;
    parallelFor(threads(), chunks, [&](int64_t i) {
      const int64_t last = std::min(pixels, (i + 1) * tile);
      kernel(rows, i * tile, last, packed, columns, to, columns, epilogue);
      // the chunk is still in the cache
      float* chunk = to + i * tile * columns;
      if (silu) activate(Activation::kSilu, chunk, chunk, (last - i * tile) * columns);
    });
  }

  ConvWeightGradient weightGradient_;
  int64_t taps_ = 1, inChannels_ = 0, widest_ = 0;
  bool dilated_ = false;
};

}  // namespace

std::unique_ptr<Op> makeDirectConv(const OpContext& context) { return std::make_unique<DirectConv>(context); }

}  // namespace ddad
