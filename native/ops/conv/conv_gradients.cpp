#include "ops/conv/conv_gradients.h"

#include <algorithm>

#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gemm/gemm.h"

namespace ddad {
namespace {

constexpr int64_t kBlock = 16;  // input channels of one work item

int64_t roundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

ConvWeightGradient::ConvWeightGradient(const OpContext& context) : context_(context) {
  const OpAttributes& attr = context.record->attr;
  taps_ = int64_t{attr.kernel} * attr.kernel;
  inChannels_ = 0;
  for (int s = 0; s < attr.sources; ++s) inChannels_ += context.in[static_cast<size_t>(s)].c;
  outChannels_ = context.out.c;
  // A chunk of pixels whose inputs and gradients stay in the second-level cache while all taps pass over it.
  chunk_ = std::clamp<int64_t>(65536 / (inChannels_ + outChannels_), 64, 1024);
  // Few output channels (the last convolution has two or six) are padded to whole vectors.
  paddedColumns_ = outChannels_ % 16 == 0 ? 0 : roundUp(outChannels_, 16);
  const int64_t columns = paddedColumns_ ? paddedColumns_ : outChannels_;
  gradFloats_ = roundUp(taps_ * inChannels_ * columns, 16);
  biasFloats_ = roundUp(outChannels_ * ((context.out.pixels() + kSumRows - 1) / kSumRows), 16);
  workerFloats_ = roundUp(chunk_ * 2 + chunk_ * paddedColumns_, 16);  // row pointers, padded gradients
}

int64_t ConvWeightGradient::workspaceFloats() const {
  return gradFloats_ + biasFloats_ + context_.device->threads() * workerFloats_;
}

void ConvWeightGradient::run(const std::vector<const float*>& sources, const float* outGrad, float* workspace,
                             const float* zeros, float* weightGrad, float* biasGrad) const {
  const int threads = context_.device->threads();
  const OpAttributes& attr = context_.record->attr;
  int64_t items = 0;
  for (int s = 0; s < attr.sources; ++s)
    items += taps_ * ((context_.in[static_cast<size_t>(s)].c + kBlock - 1) / kBlock);
  // Every element of the gradient is summed by one thread over the chunks in order, whichever thread that is.
  parallelForWorker(threads, threads, [&](int64_t share, int worker) {
    runShare(share * items / threads, (share + 1) * items / threads, worker, sources, outGrad, workspace, zeros);
  });
  const int64_t columns = paddedColumns_ ? paddedColumns_ : outChannels_;
  parallelFor(threads, outChannels_, [&](int64_t o) {
    for (int64_t c = 0; c < inChannels_; ++c)
      for (int64_t tap = 0; tap < taps_; ++tap)
        weightGrad[(o * inChannels_ + c) * taps_ + tap] = workspace[(tap * inChannels_ + c) * columns + o];
  });
  if (biasGrad) sumColumns(threads, outGrad, context_.out.pixels(), outChannels_, workspace + gradFloats_, biasGrad);
}

void ConvWeightGradient::runShare(int64_t first, int64_t last, int worker, const std::vector<const float*>& sources,
                                  const float* outGrad, float* workspace, const float* zeros) const {
  const OpAttributes& attr = context_.record->attr;
  const auto outer = DDAD_DISPATCH(gemmOuter);
  float* scratch = workspace + gradFloats_ + biasFloats_ + worker * workerFloats_;
  auto** rows = reinterpret_cast<const float**>(scratch);
  float* padded = scratch + chunk_ * 2;
  const Shape& out = context_.out;
  const int64_t columns = paddedColumns_ ? paddedColumns_ : outChannels_;
  for (int64_t start = 0; start < out.pixels(); start += chunk_) {
    const int64_t count = std::min(chunk_, out.pixels() - start);
    const float* gradient = outGrad + start * outChannels_;
    if (paddedColumns_) {
      for (int64_t r = 0; r < count; ++r)
        for (int64_t j = 0; j < columns; ++j)
          padded[r * columns + j] = j < outChannels_ ? gradient[r * outChannels_ + j] : 0.0f;
      gradient = padded;
    }
    int64_t item = 0, channelOffset = 0;
    for (int s = 0; s < attr.sources; ++s) {
      const Shape& in = context_.in[static_cast<size_t>(s)];
      const int64_t blocks = (in.c + kBlock - 1) / kBlock;
      for (int64_t tap = 0; tap < taps_; ++tap, item += blocks) {
        const int64_t from = std::max(first, item), to = std::min(last, item + blocks);
        if (from >= to) continue;
        const int64_t ky = tap / attr.kernel - attr.pad, kx = tap % attr.kernel - attr.pad;
        int64_t n = start / (out.h * out.w), oy = start / out.w % out.h, ox = start % out.w;
        for (int64_t r = 0; r < count; ++r) {
          const int64_t y = oy * attr.stride + ky, x = ox * attr.stride + kx;
          const bool inside = y >= 0 && y < in.h && x >= 0 && x < in.w;
          rows[r] = inside ? sources[static_cast<size_t>(s)] + ((n * in.h + y) * in.w + x) * in.c : zeros;
          if (++ox == out.w) {
            ox = 0;
            if (++oy == out.h) {
              oy = 0;
              ++n;
            }
          }
        }
        const int64_t c0 = (from - item) * kBlock, c1 = std::min((to - item) * kBlock, in.c);
        outer(rows, c0, c1 - c0, gradient, columns, columns, count,
              workspace + (tap * inChannels_ + channelOffset + c0) * columns, columns, start > 0);
      }
      channelOffset += in.c;
    }
  }
}

void addResidualGradient(const OpContext& context, const OpBuffers& buffers) {
  const OpAttributes& attr = context.record->attr;
  const auto r = static_cast<size_t>(attr.sources);
  if (!attr.residual || !context.inputGradient[r] || buffers.inGrad[r] == buffers.outGrad) return;
  const auto add = DDAD_DISPATCH(addInto);
  const int64_t row = context.out.w * context.out.c;
  parallelFor(context.device->threads(), context.out.n * context.out.h,
              [&](int64_t i) { add(buffers.inGrad[r] + i * row, buffers.outGrad + i * row, row); });
}

}  // namespace ddad
