#pragma once
// Winograd's minimal filtering F(4x4, 3x3) for 3x3 convolutions with stride 1 on NHWC data (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2016): 36 multiplications for 16 outputs instead of 144.
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

constexpr int kWinogradPoints = 36;

/// One convolution over a batch, padding 1; 4x4 output tiles counted row by row, sample by sample.
struct WinogradShape {
  int64_t samples, height, width;
  int64_t in, out;  // channels
  int64_t tileRows, tileColumns;
  int64_t block;             // tiles transformed at a time
  int64_t panel, paddedOut;  // columns of a packed panel; out rounded up to whole panels

  int64_t tiles() const { return samples * tileRows * tileColumns; }
  int64_t blocks() const { return (tiles() + block - 1) / block; }
  /// Scratch floats of one worker: transformed inputs and products.
  int64_t scratchFloats() const { return kWinogradPoints * block * (in + paddedOut); }
  int64_t weightFloats() const { return kWinogradPoints * in * paddedOut; }
};
WinogradShape winogradShape(int64_t samples, int64_t height, int64_t width, int64_t in, int64_t out);

/// Transforms the weights of one panel of output channels: element (o, i, tap) at w[o * outStride + i * inStride +
/// tap], taps reversed where `flip`; into packed[point][panel][in][panel columns].
DDAD_DECLARE_SIMD(void, winogradWeights,
                  (const WinogradShape& shape, const float* w, int64_t outStride, int64_t inStride, int flip,
                   int64_t panelIndex, float* packed))
/// Convolves the tiles of one block; `bias` [out] and `residual` (the shape of the output) may be null.
DDAD_DECLARE_SIMD(void, winogradBlock,
                  (const WinogradShape& shape, int64_t blockIndex, const float* x, const float* weights,
                   const float* bias, const float* residual, float* y, float* scratch))

}  // namespace ddad
