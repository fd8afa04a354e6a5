// The sinusoidal embedding of the time step and the learned embedding of a label.
#include "ops/embedding/embedding.h"

#include <cstring>
#include <string>

#include "ops/embedding/embedding_math.h"

namespace ddad {
namespace {

class TimestepEmbedding : public Op {
 public:
  using Op::Op;
  void forward() override {
    const int64_t channels = context_.out.c;
    for (int64_t n = 0; n < context_.out.n; ++n)
      for (int64_t c = 0; c < channels; ++c)
        buffers_.out[n * channels + c] = timestepValue(static_cast<double>(buffers_.in[0][n]), c, channels);
  }
  void backward() override {}
};

/// out = vector + table[label]. Labels are checked by whoever fills them in.
class LabelEmbedding : public Op {
 public:
  explicit LabelEmbedding(OpContext context) : Op(std::move(context)) {}
  bool backwardReadsInput(int i) const override { return i == 1; }
  bool gradientPassesThrough(int i) const override { return i == 0; }
  void forward() override {
    const int64_t c = context_.out.c;
    for (int64_t n = 0; n < context_.out.n; ++n) {
      const float* row = buffers_.param[0] + label(n) * c;
      for (int64_t i = 0; i < c; ++i) buffers_.out[n * c + i] = buffers_.in[0][n * c + i] + row[i];
    }
  }
  void backward() override {
    const int64_t c = context_.out.c;
    if (context_.paramGradient) {
      float* table = buffers_.paramGrad[0];
      // rows of other classes have no gradient
      std::memset(table, 0, static_cast<size_t>(classes() * c) * sizeof(float));
      for (int64_t n = 0; n < context_.out.n; ++n)
        for (int64_t i = 0; i < c; ++i) table[label(n) * c + i] += buffers_.outGrad[n * c + i];
    }
    if (context_.inputGradient[0] && buffers_.inGrad[0] != buffers_.outGrad)
      for (int64_t i = 0; i < context_.out.size(); ++i) buffers_.inGrad[0][i] += buffers_.outGrad[i];
  }

 private:
  int64_t label(int64_t n) const { return static_cast<int64_t>(buffers_.in[1][n]); }
  int64_t classes() const { return attr().classes; }
};

}  // namespace

std::unique_ptr<Op> makeTimestepEmbedding(OpContext context) {
  return std::make_unique<TimestepEmbedding>(std::move(context));
}
std::unique_ptr<Op> makeLabelEmbedding(OpContext context) {
  return std::make_unique<LabelEmbedding>(std::move(context));
}

}  // namespace ddad
