// Self-attention over the pixels of a sample, softmax(q k^T / sqrt(ch)) v a head, computed block of rows by block of
// rows: the T x T matrix never exists, forward keeps nothing for backward but its own inputs.
#include "ops/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "device/parallel.h"
#include "ops/attention/attention_kernels.h"
#include "ops/gemm/gemm.h"

namespace ddad {
namespace {

constexpr int64_t kBlock = 48;  // rows of the score matrix at a time: a multiple of every row tile

class Attention : public Op {
 public:
  explicit Attention(OpContext context) : Op(std::move(context)) {
    channels_ = context_.out.c;
    heads_ = attr().heads;
    width_ = channels_ / heads_;
    tokens_ = context_.out.h * context_.out.w;
    pairs_ = context_.out.n * heads_;
    blocks_ = (tokens_ + kBlock - 1) / kBlock;
    scale_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width_)));
    packedKt_ = align(gemmPackedSize(width_, tokens_));  // also of v^T
    packedV_ = align(gemmPackedSize(tokens_, width_));   // also of k
  }

  double flops() const override { return 4.0 * static_cast<double>(pairs_ * tokens_ * tokens_ * width_); }
  int64_t forwardWorkspaceFloats() const override {
    return pairs_ * (packedKt_ + packedV_) + threads() * align(kBlock * tokens_);
  }
  int64_t backwardWorkspaceFloats() const override { return threads() * backwardWorkerFloats(); }

  void forward() override {
    float* scores = buffers_.workspace + pairs_ * (packedKt_ + packedV_);
    const auto multiply = DDAD_DISPATCH(gemmRows);
    const auto softmax = DDAD_DISPATCH(softmaxRows);
    parallelFor(threads(), pairs_, [&](int64_t pair) {
      float* packed = buffers_.workspace + pair * (packedKt_ + packedV_);
      gemmPack(at(pair, 1), 1, 3 * channels_, width_, tokens_, packed);
      gemmPack(at(pair, 2), 3 * channels_, 1, tokens_, width_, packed + packedKt_);
    });
    parallelForWorker(threads(), pairs_ * blocks_, [&](int64_t i, int worker) {
      const int64_t pair = i / blocks_, first = i % blocks_ * kBlock, rows = std::min(kBlock, tokens_ - first);
      const float* packed = buffers_.workspace + pair * (packedKt_ + packedV_);
      float* s = scores + worker * align(kBlock * tokens_);
      multiply(matrixRows(at(pair, 0) + first * 3 * channels_, 3 * channels_, rows, width_), 0, rows, packed, tokens_,
               s, tokens_, {nullptr, nullptr, 0, scale_, 0});
      softmax(s, rows, tokens_);
      multiply(matrixRows(s, tokens_, rows, tokens_), 0, rows, packed + packedKt_, width_,
               output(buffers_.out, pair) + first * channels_, channels_, {nullptr, nullptr, 0, 1.0f, 0});
    });
  }

  void backward() override {
    if (!context_.inputGradient[0]) return;
    parallelForWorker(threads(), pairs_, [&, cancel = CancelScope::current()](int64_t pair, int worker) {
      backwardPair(pair, buffers_.backwardWorkspace + worker * backwardWorkerFloats(), cancel);
    });
  }

 private:
  static int64_t align(int64_t n) { return (n + 15) / 16 * 16; }
  int64_t backwardWorkerFloats() const {
    return 2 * packedKt_ + packedV_ + 2 * align(kBlock * tokens_) + 4 * align(kBlock);
  }
  int64_t offset(int64_t pair, int part) const {  // of q (0), k (1) or v (2) in qkv
    const int64_t n = pair / heads_, head = pair % heads_;
    const int64_t channel = attr().splitBeforeHeads ? part * channels_ + head * width_ : (head * 3 + part) * width_;
    return n * tokens_ * 3 * channels_ + channel;
  }
  const float* at(int64_t pair, int part) const { return buffers_.in[0] + offset(pair, part); }
  template <class T>
  T* output(T* base, int64_t pair) const {
    return base + pair / heads_ * tokens_ * channels_ + pair % heads_ * width_;
  }

  /// Ends early where `cancel` says so: the loop over the pairs then throws.
  void backwardPair(int64_t pair, float* scratch, const Cancel* cancel) {
    const auto multiply = DDAD_DISPATCH(gemmRows);
    const auto outer = DDAD_DISPATCH(gemmOuter);
    const int64_t stride = 3 * channels_;
    float *kt = scratch, *vt = kt + packedKt_, *k = vt + packedKt_, *p = k + packedV_, *d = p + align(kBlock * tokens_);
    auto** pRows = reinterpret_cast<const float**>(d + align(kBlock * tokens_));
    const float** dRows = pRows + align(kBlock);
    gemmPack(at(pair, 1), 1, stride, width_, tokens_, kt);
    gemmPack(at(pair, 2), 1, stride, width_, tokens_, vt);
    gemmPack(at(pair, 1), stride, 1, tokens_, width_, k);
    for (int64_t r = 0; r < kBlock; ++r) {
      pRows[r] = p + r * tokens_;
      dRows[r] = d + r * tokens_;
    }
    const float* dout = output(buffers_.outGrad, pair);
    float* grad = buffers_.inGrad[0];
    const bool add = buffers_.accumulate[0];
    for (int64_t first = 0; first < tokens_; first += kBlock) {
      if (cancel && cancel->requested()) return;
      const int64_t rows = std::min(kBlock, tokens_ - first);
      const float* q = at(pair, 0) + first * stride;
      multiply(matrixRows(q, stride, rows, width_), 0, rows, kt, tokens_, p, tokens_, {nullptr, nullptr, 0, scale_, 0});
      DDAD_DISPATCH(softmaxRows)(p, rows, tokens_);
      multiply(matrixRows(dout + first * channels_, channels_, rows, width_), 0, rows, vt, tokens_, d, tokens_,
               {nullptr, nullptr, 0, 1.0f, 0});
      DDAD_DISPATCH(softmaxGradRows)(p, d, rows, tokens_, scale_);
      float* dq = grad + offset(pair, 0) + first * stride;
      multiply(matrixRows(d, tokens_, rows, tokens_), 0, rows, k, width_, dq, stride,
               {nullptr, add ? dq : nullptr, stride, 1.0f, 0});
      outer(dRows, 0, tokens_, q, stride, width_, rows, grad + offset(pair, 1), stride, add || first > 0);
      outer(pRows, 0, tokens_, dout + first * channels_, channels_, width_, rows, grad + offset(pair, 2), stride,
            add || first > 0);
    }
  }

  int64_t channels_, heads_, width_, tokens_, pairs_, blocks_, packedKt_, packedV_;
  float scale_;
};

}  // namespace

std::unique_ptr<Op> makeAttention(OpContext context) { return std::make_unique<Attention>(std::move(context)); }

}  // namespace ddad
