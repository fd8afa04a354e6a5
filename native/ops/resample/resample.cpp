// Nearest up-sampling and 2x2 average pooling. Each is the other's gradient, up to a factor of four.
#include "ops/resample/resample.h"

#include <cstring>

#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace {

/// fine[2y + i, 2x + j] (+)= coarse[y, x] * scale.
void spread(int threads, const Shape& coarse, const float* from, float* to, float scale, bool accumulate) {
  const auto write = DDAD_DISPATCH(scaleInto);
  parallelFor(threads, coarse.n * coarse.h, [&](int64_t row) {
    for (int64_t x = 0; x < coarse.w; ++x) {
      const float* source = from + (row * coarse.w + x) * coarse.c;
      for (int64_t k = 0; k < 4; ++k)
        write(to + ((row * 2 + k / 2) * coarse.w * 2 + x * 2 + k % 2) * coarse.c, source, coarse.c, scale, accumulate);
    }
  });
}

/// coarse[y, x] (+)= sum over i, j of fine[2y + i, 2x + j] * scale.
void gather(int threads, const Shape& coarse, const float* from, float* to, float scale, bool accumulate) {
  const auto sum = DDAD_DISPATCH(sumFour);
  parallelFor(threads, coarse.n * coarse.h, [&](int64_t row) {
    for (int64_t x = 0; x < coarse.w; ++x) {
      const float* upper = from + (row * 2 * coarse.w * 2 + x * 2) * coarse.c;
      const float* lower = upper + coarse.w * 2 * coarse.c;
      sum(to + (row * coarse.w + x) * coarse.c, upper, upper + coarse.c, lower, lower + coarse.c, coarse.c, scale,
          accumulate);
    }
  });
}

class Resample : public Op {
 public:
  explicit Resample(OpContext context) : Op(std::move(context)) {}
  bool backwardReadsInput(int) const override { return false; }
  void forward() override {
    if (up())
      spread(threads(), context_.in[0], buffers_.in[0], buffers_.out, 1.0f, false);
    else
      gather(threads(), context_.out, buffers_.in[0], buffers_.out, 0.25f, false);
  }
  void backward() override {
    if (!context_.inputGradient[0]) return;
    if (up())
      gather(threads(), context_.in[0], buffers_.outGrad, buffers_.inGrad[0], 1.0f, buffers_.accumulate[0]);
    else
      spread(threads(), context_.out, buffers_.outGrad, buffers_.inGrad[0], 0.25f, buffers_.accumulate[0]);
  }

 private:
  bool up() const { return context_.record->kind == OpKind::kUpsample; }
};

}  // namespace

std::unique_ptr<Op> makeResample(OpContext context) { return std::make_unique<Resample>(std::move(context)); }

}  // namespace ddad
