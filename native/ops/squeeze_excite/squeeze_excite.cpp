// Squeeze-and-excitation (Hu et al., 2018): y = x sigmoid(W2 f(W1 mean(x) + b1) + b2), the mean over all pixels of a
// sample, the gate one factor a channel.
#include "ops/squeeze_excite/squeeze_excite.h"

#include <algorithm>

#include "device/parallel.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/elementwise.h"
#include "ops/squeeze_excite/squeeze_excite_kernels.h"

namespace ddad {
namespace {

class SqueezeExcite : public Op {
 public:
  explicit SqueezeExcite(OpContext context)
      : Op(std::move(context)),
        samples_(context_.out.n),
        pixels_(context_.out.h * context_.out.w),
        channels_(context_.out.c),
        reduced_(attr().reduced),
        pieces_((pixels_ + kSumRows - 1) / kSumRows) {}

  bool mayOverwrite(int) const override { return true; }
  double flops() const override {
    return static_cast<double>(2 * context_.out.size() + 4 * samples_ * channels_ * reduced_);
  }
  int64_t savedFloats() const override { return samples_ * (2 * channels_ + 2 * reduced_); }
  int64_t forwardWorkspaceFloats() const override { return samples_ * pieces_ * channels_; }
  int64_t backwardWorkspaceFloats() const override {
    return samples_ * (pieces_ * channels_ + 2 * channels_ + 2 * reduced_);
  }

  void forward() override {
    const float* x = buffers_.in[0];
    const auto sums = DDAD_DISPATCH(columnSums);
    forEachPiece([&](int64_t piece, int64_t rows, int64_t at) {
      sums(x + at, rows, channels_, channels_, buffers_.workspace + piece * channels_);
    });
    const auto dense = DDAD_DISPATCH(denseLayer);
    const auto sigmoid = DDAD_DISPATCH(sigmoidForward);
    parallelFor(threads(), samples_, [&](int64_t n) {
      for (int64_t c = 0; c < channels_; ++c)
        mean(n)[c] = static_cast<float>(pieceSum(buffers_.workspace, n, c) / static_cast<double>(pixels_));
      dense(argument(n), mean(n), buffers_.param[0], buffers_.param[1], reduced_, channels_);
      activate(attr().activation, argument(n), hidden(n), reduced_);
      dense(gate(n), hidden(n), buffers_.param[2], buffers_.param[3], channels_, reduced_);
      sigmoid(gate(n), gate(n), channels_);
    });
    const auto scale = DDAD_DISPATCH(gateRows);
    forEachPiece([&](int64_t piece, int64_t rows, int64_t at) {
      scale(buffers_.out + at, x + at, gate(piece / pieces_), rows, channels_);
    });
  }

  void backward() override {
    const float *x = buffers_.in[0], *dy = buffers_.outGrad;
    const auto products = DDAD_DISPATCH(productSums);
    forEachPiece([&](int64_t piece, int64_t rows, int64_t at) {
      products(buffers_.backwardWorkspace + piece * channels_, x + at, dy + at, rows, channels_);
    });
    parallelFor(threads(), samples_, [&](int64_t n) { vectorGradients(n); });
    if (context_.inputGradient[0]) {
      const auto kernel = DDAD_DISPATCH(gateRowsBackward);
      forEachPiece([&](int64_t piece, int64_t rows, int64_t at) {
        const int64_t n = piece / pieces_;
        kernel(buffers_.inGrad[0] + at, dy + at, gate(n), shift(n), rows, channels_, buffers_.accumulate[0]);
      });
    }
    if (context_.paramGradient) parameterGradients();
  }

 private:
  // What forward saves of a sample: its mean, the reduced vector before and after f, the gate.
  float* mean(int64_t n) const { return buffers_.saved + n * (2 * channels_ + 2 * reduced_); }
  float* argument(int64_t n) const { return mean(n) + channels_; }
  float* hidden(int64_t n) const { return argument(n) + reduced_; }
  float* gate(int64_t n) const { return hidden(n) + reduced_; }
  // Gradients of a sample: by the gate's argument, by the reduced vector and its argument, by each pixel through the
  // mean.
  float* gateGradient(int64_t n) const {
    return buffers_.backwardWorkspace + samples_ * pieces_ * channels_ + n * (2 * channels_ + 2 * reduced_);
  }
  float* hiddenGradient(int64_t n) const { return gateGradient(n) + channels_; }
  float* argumentGradient(int64_t n) const { return hiddenGradient(n) + reduced_; }
  float* shift(int64_t n) const { return argumentGradient(n) + reduced_; }

  /// Calls f(piece, rows, first value) for pieces of kSumRows pixels of one sample each.
  template <class F>
  void forEachPiece(F f) const {
    parallelFor(threads(), samples_ * pieces_, [&](int64_t piece) {
      const int64_t n = piece / pieces_, row = piece % pieces_ * kSumRows;
      f(piece, std::min(kSumRows, pixels_ - row), (n * pixels_ + row) * channels_);
    });
  }

  double pieceSum(const float* sums, int64_t n, int64_t c) const {
    double total = 0;
    for (int64_t i = 0; i < pieces_; ++i) total += static_cast<double>(sums[(n * pieces_ + i) * channels_ + c]);
    return total;
  }

  void vectorGradients(int64_t n) const {
    const auto add = DDAD_DISPATCH(scaleInto);
    for (int64_t c = 0; c < channels_; ++c) {
      const float g = gate(n)[c];
      gateGradient(n)[c] = static_cast<float>(pieceSum(buffers_.backwardWorkspace, n, c)) * g * (1.0f - g);
    }
    std::fill_n(hiddenGradient(n), reduced_, 0.0f);
    for (int64_t c = 0; c < channels_; ++c)
      add(hiddenGradient(n), buffers_.param[2] + c * reduced_, reduced_, gateGradient(n)[c], 1);
    const float* kept = gradientReadsArgument(attr().activation) ? argument(n) : hidden(n);
    activationGradient(1, attr().activation, kept, hiddenGradient(n), argumentGradient(n), reduced_);
    std::fill_n(shift(n), channels_, 0.0f);
    const float share = 1.0f / static_cast<float>(pixels_);
    for (int64_t r = 0; r < reduced_; ++r)
      add(shift(n), buffers_.param[0] + r * channels_, channels_, argumentGradient(n)[r] * share, 1);
  }

  void parameterGradients() const {
    const auto add = DDAD_DISPATCH(scaleInto);
    parallelFor(threads(), reduced_, [&](int64_t r) {
      float bias = 0.0f;
      for (int64_t n = 0; n < samples_; ++n) {
        add(buffers_.paramGrad[0] + r * channels_, mean(n), channels_, argumentGradient(n)[r], n > 0);
        bias += argumentGradient(n)[r];
      }
      buffers_.paramGrad[1][r] = bias;
    });
    parallelFor(threads(), channels_, [&](int64_t c) {
      float bias = 0.0f;
      for (int64_t n = 0; n < samples_; ++n) {
        add(buffers_.paramGrad[2] + c * reduced_, hidden(n), reduced_, gateGradient(n)[c], n > 0);
        bias += gateGradient(n)[c];
      }
      buffers_.paramGrad[3][c] = bias;
    });
  }

  const int64_t samples_, pixels_, channels_, reduced_, pieces_;
};

}  // namespace

std::unique_ptr<Op> makeSqueezeExcite(OpContext context) { return std::make_unique<SqueezeExcite>(std::move(context)); }

}  // namespace ddad
