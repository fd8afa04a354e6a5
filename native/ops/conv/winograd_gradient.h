#pragma once
// The weight gradient of a 3x3 convolution as the adjoint of Winograd's F(4x4, 3x3):
//   dg = G^T [ sum over tiles of (B^T d B) * (A dy A^T) ] G,  36 multiplications where the direct sum has 144.
#include <cstdint>

#include "device/dispatch.h"
#include "graph/op.h"
#include "ops/conv/winograd.h"

namespace ddad {

/// Transforms tile `first + i` of the input, for each i below `count`, to v[point][i][in], and of the output's gradient
/// to u[point][i][paddedOut]; what lies beyond the image or beyond `out` is zero. `shape.block` tiles fit v and u.
DDAD_DECLARE_SIMD(void, winogradGradientTiles,
                  (const WinogradShape& shape, int64_t first, int64_t begin, int64_t count, const float* x,
                   const float* dy, float* v, float* u))
/// Sums m[point][in][paddedOut] to the gradient of the weights (OIHW) of input channels [begin, end).
DDAD_DECLARE_SIMD(void, winogradGradientWeights,
                  (const WinogradShape& shape, const float* m, int64_t begin, int64_t end, float* weightGrad))

class WinogradWeightGradient {
 public:
  explicit WinogradWeightGradient(const OpContext& context);
  int64_t workspaceFloats() const;
  /// Gradients of weight (OIHW) and, where `biasGrad` is not null, of bias.
  void run(const float* x, const float* outGrad, float* workspace, float* weightGrad, float* biasGrad) const;
  const WinogradShape& shape() const { return shape_; }

 private:
  const OpContext& context_;
  WinogradShape shape_;
  int64_t productFloats_, tileFloats_, biasFloats_, workerFloats_;
};

}  // namespace ddad
