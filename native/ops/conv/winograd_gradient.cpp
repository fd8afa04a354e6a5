#include "ops/conv/winograd_gradient.h"

#include <algorithm>

#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gemm/gemm.h"

namespace ddad {
namespace {

constexpr int64_t kInBlock = 32;     // input channels of one product
constexpr int64_t kTransformed = 8;  // tiles that one work item transforms

int64_t roundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

WinogradWeightGradient::WinogradWeightGradient(const OpContext& context) : context_(context) {
  const Shape &in = context.in[0], &out = context.out;
  shape_ = winogradShape(out.n, out.h, out.w, in.c, out.c);
  shape_.paddedOut = roundUp(out.c, 16);  // whole vectors on every instruction set
  // Long enough a sum to pay for reading and writing the products, few enough tiles to stay in the caches.
  const int64_t fit = (int64_t{1} << 20) / (kWinogradPoints * (in.c + shape_.paddedOut));
  shape_.block = std::clamp<int64_t>(fit / 16 * 16, 64, 256);
  shape_.block = std::min(shape_.block, roundUp(shape_.tiles(), kTransformed));
  productFloats_ = kWinogradPoints * in.c * shape_.paddedOut;
  tileFloats_ = kWinogradPoints * shape_.block * (in.c + shape_.paddedOut);
  biasFloats_ = roundUp(out.c * ((out.pixels() + kSumRows - 1) / kSumRows), 16);
  workerFloats_ = roundUp(shape_.block * 2, 16);  // pointers to the rows of one point
}

int64_t WinogradWeightGradient::workspaceFloats() const {
  return roundUp(productFloats_, 16) + roundUp(tileFloats_, 16) + biasFloats_ +
         context_.device->threads() * workerFloats_;
}

void WinogradWeightGradient::run(const float* x, const float* outGrad, float* workspace, float* weightGrad,
                                 float* biasGrad) const {
  const int threads = context_.device->threads();
  const WinogradShape& s = shape_;
  float* m = workspace;
  float* v = m + roundUp(productFloats_, 16);
  float* u = v + kWinogradPoints * s.block * s.in;
  float* bias = v + roundUp(tileFloats_, 16);
  float* scratch = bias + biasFloats_;
  const auto transform = DDAD_DISPATCH(winogradGradientTiles);
  const auto outer = DDAD_DISPATCH(gemmOuter);
  const auto finish = DDAD_DISPATCH(winogradGradientWeights);
  const int64_t inBlocks = (s.in + kInBlock - 1) / kInBlock;
  // Blocks of tiles in order, each element of the products summed by one thread: the same sum whoever computes it.
  for (int64_t first = 0; first < s.tiles(); first += s.block) {
    const int64_t count = std::min(s.block, s.tiles() - first);
    parallelFor(threads, (count + kTransformed - 1) / kTransformed, [&](int64_t i) {
      transform(s, first, i * kTransformed, std::min(kTransformed, count - i * kTransformed), x, outGrad, v, u);
    });
    parallelForWorker(threads, kWinogradPoints * inBlocks, [&](int64_t item, int worker) {
      const int64_t point = item / inBlocks, c = item % inBlocks * kInBlock;
      auto** rows = reinterpret_cast<const float**>(scratch + worker * workerFloats_);
      for (int64_t r = 0; r < count; ++r) rows[r] = v + (point * s.block + r) * s.in;
      outer(rows, c, std::min(kInBlock, s.in - c), u + point * s.block * s.paddedOut, s.paddedOut, s.paddedOut, count,
            m + (point * s.in + c) * s.paddedOut, s.paddedOut, first > 0);
    });
  }
  parallelFor(threads, inBlocks,
              [&](int64_t i) { finish(s, m, i * kInBlock, std::min(s.in, (i + 1) * kInBlock), weightGrad); });
  if (biasGrad) sumColumns(threads, outGrad, context_.out.pixels(), s.out, bias, biasGrad);
}

}  // namespace ddad
