// Self-attention over the pixels of a sample, softmax(q k^T / sqrt(width)) v a head. On bf16 tensors cuDNN's fused
// kernels; else, and for sizes that these do not have, in float32 with the scores of one sample in scratch memory.
#include <algorithm>
#include <cmath>
#include <string>

#include "graph/op.h"
#include "graph/scratch_layout.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_graph_cuda.h"
#include "ops/elementwise/kernels_cuda.h"
#include "ops/gemm/matmul_cuda.h"

namespace ddad {
namespace {

AttentionSpec specOf(const OpContext& context) {
  const int64_t channels = context.out.c, heads = context.record->attr.heads;
  const int64_t width = channels / heads;
  return {context.out.n,
          context.out.h * context.out.w,
          heads,
          width,
          context.record->attr.splitBeforeHeads,
          static_cast<float>(1.0 / std::sqrt(static_cast<double>(width))),
          context.layoutOnly};
}

double attentionFlops(const AttentionSpec& s) {
  return 4.0 * static_cast<double>(s.n * s.heads * s.width) * static_cast<double>(s.tokens * s.tokens);
}

/// No matrix of scores in memory; backward recomputes them from their row sums.
class FusedAttention : public Op {
 public:
  FusedAttention(OpContext context, const AttentionSpec& spec, std::shared_ptr<const DnnGraph> forward,
                 std::shared_ptr<const DnnGraph> backward)
      : Op(std::move(context)),
        device_(cudaDevice(*context_.device)),
        spec_(spec),
        forward_(std::move(forward)),
        backward_(std::move(backward)) {}

  const char* kernelName() const override { return "cudnn"; }
  bool backwardReadsOutput() const override { return true; }
  double flops() const override { return attentionFlops(spec_); }
  int64_t savedFloats() const override { return context_.training ? spec_.n * spec_.heads * spec_.tokens : 0; }
  int64_t forwardWorkspaceFloats() const override { return forward_->workspaceFloats(); }
  int64_t backwardWorkspaceFloats() const override {
    return backward_ ? gradientFloats() + backward_->workspaceFloats() : 0;
  }

  void forward() override {
    std::vector<DnnOperand> operands = {{kAttentionQ, part(buffers_.in[0], 0)},
                                        {kAttentionK, part(buffers_.in[0], 1)},
                                        {kAttentionV, part(buffers_.in[0], 2)},
                                        {kAttentionOut, buffers_.out}};
    if (context_.training) operands.push_back({kAttentionStats, buffers_.saved});
    forward_->run(device_, operands, buffers_.workspace);
  }

  void backward() override {
    if (!backward_) return;
    const bool add = buffers_.accumulate[0];
    const float* const to = add ? buffers_.backwardWorkspace : buffers_.inGrad[0];
    backward_->run(device_,
                   {{kAttentionQ, part(buffers_.in[0], 0)},
                    {kAttentionK, part(buffers_.in[0], 1)},
                    {kAttentionV, part(buffers_.in[0], 2)},
                    {kAttentionOut, buffers_.out},
                    {kAttentionOutGradient, buffers_.outGrad},
                    {kAttentionStats, buffers_.saved},
                    {kAttentionQGradient, part(to, 0)},
                    {kAttentionKGradient, part(to, 1)},
                    {kAttentionVGradient, part(to, 2)}},
                   buffers_.backwardWorkspace + gradientFloats());
    if (!add) return;
    const Shape& in = context_.in[0];
    convertChannelsCuda(device_, to, true, in.c, buffers_.inGrad[0], true, in.c, in.pixels(), true);
  }

 private:
  const void* part(const float* qkv, int which) const {
    return reinterpret_cast<const char*>(qkv) + 2 * spec_.offset(which);
  }
  /// Of a gradient that is added to what is there: whether it is, is known only when memory has been laid out.
  int64_t gradientFloats() const { return (floatsOf(context_.in[0].size(), true) + 63) / 64 * 64; }

  const CudaDevice& device_;
  AttentionSpec spec_;
  std::shared_ptr<const DnnGraph> forward_, backward_;
};

/// Sample by sample, all heads at once, in float32.
class PlainAttention : public Op {
 public:
  PlainAttention(OpContext context, const AttentionSpec& spec)
      : Op(std::move(context)),
        device_(cudaDevice(*context_.device)),
        spec_(spec),
        channels_(spec.channels()),
        row_(3 * spec.channels()) {
    const int64_t t = spec_.tokens, w = spec_.width;
    // scores and their gradient: rows by rows
    scores_ = product(t, t, w, row_, row_, t, spec_.headStride(), spec_.headStride(), t * t, false, true, false);
    weighted_ = product(t, w, t, t, row_, channels_, t * t, spec_.headStride(), w, false, false, false);
    scoresAt_ = forwardScratch_.take(spec_.heads * t * t);
    if (context_.inHalf[0]) sourceAt_ = forwardScratch_.take(context_.in[0].size());
    if (context_.outHalf) outAt_ = forwardScratch_.take(context_.out.size());
    forwardAt_ = forwardScratch_.take(std::max(scores_->workspaceFloats(), weighted_->workspaceFloats()));
    if (!context_.training || !context_.inputGradient[0]) return;
    scoreGradient_ = product(t, t, w, channels_, row_, t, w, spec_.headStride(), t * t, false, true, false);
    queryGradient_ = product(t, w, t, t, row_, row_, t * t, spec_.headStride(), spec_.headStride(), false, false, true);
    keyGradient_ = product(t, w, t, t, row_, row_, t * t, spec_.headStride(), spec_.headStride(), true, false, true);
    valueGradient_ = product(t, w, t, t, channels_, row_, t * t, w, spec_.headStride(), true, false, true);
    int64_t scratch = scores_->workspaceFloats();
    for (const auto* matmul : {&scoreGradient_, &queryGradient_, &keyGradient_, &valueGradient_})
      scratch = std::max(scratch, (*matmul)->workspaceFloats());
    probabilitiesAt_ = backwardScratch_.take(spec_.heads * t * t);
    scoreGradientAt_ = backwardScratch_.take(spec_.heads * t * t);
    if (context_.inHalf[0]) {
      backwardSourceAt_ = backwardScratch_.take(context_.in[0].size());
      gradientAt_ = backwardScratch_.take(context_.in[0].size());
    }
    if (context_.outHalf) outGradientAt_ = backwardScratch_.take(context_.out.size());
    backwardAt_ = backwardScratch_.take(scratch);
  }

  const char* kernelName() const override { return "cublaslt"; }
  double flops() const override { return attentionFlops(spec_); }
  int64_t forwardWorkspaceFloats() const override { return forwardScratch_.floats(); }
  int64_t backwardWorkspaceFloats() const override { return backwardScratch_.floats(); }

  void forward() override {
    const Shape& out = context_.out;
    const float* const qkv =
        asFloats(buffers_.in[0], context_.inHalf[0], context_.in[0], buffers_.workspace + sourceAt_);
    float* const y = context_.outHalf ? buffers_.workspace + outAt_ : buffers_.out;
    float* const scores = buffers_.workspace + scoresAt_;
    float* const scratch = buffers_.workspace + forwardAt_;
    for (int64_t n = 0; n < spec_.n; ++n) {
      probabilities(qkv, n, scores, scratch);
      weighted_->run(scores, part(qkv, n, 2), y + n * spec_.tokens * channels_, scratch);
    }
    if (context_.outHalf) convertChannelsCuda(device_, y, false, out.c, buffers_.out, true, out.c, out.pixels(), false);
  }

  void backward() override {
    if (!queryGradient_) return;
    const Shape &in = context_.in[0], &out = context_.out;
    float* const base = buffers_.backwardWorkspace;
    const bool half = context_.inHalf[0];
    const float* const qkv = asFloats(buffers_.in[0], half, in, base + backwardSourceAt_);
    const float* const dy = asFloats(buffers_.outGrad, context_.outHalf, out, base + outGradientAt_);
    float* const to = half ? base + gradientAt_ : buffers_.inGrad[0];
    const float beta = !half && buffers_.accumulate[0] ? 1.0f : 0.0f;
    float *const p = base + probabilitiesAt_, *const d = base + scoreGradientAt_, *const scratch = base + backwardAt_;
    for (int64_t n = 0; n < spec_.n; ++n) {
      const float* const dyn = dy + n * spec_.tokens * channels_;
      probabilities(qkv, n, p, scratch);
      scoreGradient_->run(dyn, part(qkv, n, 2), d, scratch);
      softmaxRowsGradientCuda(device_, p, d, spec_.heads * spec_.tokens, spec_.tokens, spec_.scale);
      float *const dq = part(to, n, 0), *const dk = part(to, n, 1), *const dv = part(to, n, 2);
      queryGradient_->run(d, part(qkv, n, 1), dq, scratch, 1.0f, beta, dq);
      keyGradient_->run(d, part(qkv, n, 0), dk, scratch, 1.0f, beta, dk);
      valueGradient_->run(p, dyn, dv, scratch, 1.0f, beta, dv);
    }
    if (half)
      convertChannelsCuda(device_, to, false, in.c, buffers_.inGrad[0], true, in.c, in.pixels(),
                          buffers_.accumulate[0]);
  }

 private:
  /// C [m, n] of every head.
  std::unique_ptr<Matmul> product(int64_t m, int64_t n, int64_t k, int64_t rowA, int64_t rowB, int64_t rowC,
                                  int64_t strideA, int64_t strideB, int64_t strideC, bool transposeA, bool transposeB,
                                  bool adds) const {
    MatmulSpec s{.m = m,
                 .n = n,
                 .k = k,
                 .transposeA = transposeA,
                 .transposeB = transposeB,
                 .rowA = rowA,
                 .rowB = rowB,
                 .rowC = rowC};
    s.math = floatMath(device_);
    s.batch = spec_.heads;
    s.strideA = strideA;
    s.strideB = strideB;
    s.strideC = strideC;
    s.adds = adds;
    s.alignment = std::min(alignmentOf(4 * spec_.width), alignmentOf(4 * spec_.tokens * spec_.tokens));
    return makeMatmul(context_, s);
  }

  /// q (0), k (1) or v (2) of the first head of a sample.
  template <class T>
  T* part(T* qkv, int64_t n, int which) const {
    return qkv + n * spec_.tokens * row_ + spec_.offset(which);
  }

  /// softmax(q k^T * scale) of every head of a sample.
  void probabilities(const float* qkv, int64_t n, float* to, float* scratch) const {
    scores_->run(part(qkv, n, 0), part(qkv, n, 1), to, scratch);
    softmaxRowsCuda(device_, to, spec_.heads * spec_.tokens, spec_.tokens, spec_.scale);
  }

  /// A tensor as it is, or brought to float32 at `to`.
  const float* asFloats(const float* x, bool half, const Shape& shape, float* to) const {
    if (!half) return x;
    convertChannelsCuda(device_, x, true, shape.c, to, false, shape.c, shape.pixels(), false);
    return to;
  }

  const CudaDevice& device_;
  AttentionSpec spec_;
  int64_t channels_, row_;
  std::unique_ptr<Matmul> scores_, weighted_, scoreGradient_, queryGradient_, keyGradient_, valueGradient_;
  ScratchLayout forwardScratch_, backwardScratch_;
  int64_t scoresAt_ = 0, sourceAt_ = 0, outAt_ = 0, forwardAt_ = 0;
  int64_t probabilitiesAt_ = 0, scoreGradientAt_ = 0, backwardSourceAt_ = 0, gradientAt_ = 0, outGradientAt_ = 0,
          backwardAt_ = 0;
};

}  // namespace

std::unique_ptr<Op> makeCudaAttention(OpContext context) {
  const AttentionSpec spec = specOf(context);
  const CudaDevice& device = cudaDevice(*context.device);
  const bool half = context.inHalf[0] && context.outHalf;
  if (half && spec.width <= 128 && spec.width % 8 == 0 && spec.tokens > 1) {
    const bool wantsGradient = context.training && context.inputGradient[0];
    std::string why;
    auto forward = attentionForward(device, spec, context.training, &why);
    std::shared_ptr<const DnnGraph> backward;
    if (forward && wantsGradient) backward = attentionBackward(device, spec, &why);
    if (forward && (backward || !wantsGradient))
      return std::make_unique<FusedAttention>(std::move(context), spec, std::move(forward), std::move(backward));
  }
  return std::make_unique<PlainAttention>(std::move(context), spec);
}

}  // namespace ddad
