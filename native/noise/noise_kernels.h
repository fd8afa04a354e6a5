#pragma once
// The vector kernels behind noise/noising.h. Each works on one piece of one sample: whole pixels, at most
// kPieceElements elements, starting at an element whose index is a multiple of 4 (a block of the noise).
#include <cstdint>

#include "device/dispatch.h"
#include "noise/diffusion_math.h"
#include "noise/noise_types.h"

namespace ddad {

constexpr int64_t kPieceElements = 1024;

/// Pixels in a piece: fixed by the channels alone, so that sums do not depend on threads or batch split.
constexpr int64_t piecePixels(int channels) { return kPieceElements / channels / 4 * 4; }

struct Piece {
  int64_t first;  // index of the first element within the sample
  int64_t pixels;
  int channels;
};

struct LossSums {
  double mse;  // sum of squares
  double vb;   // sum of nats
};

struct PixelSums {
  double sum, squares;                // of the means over channels
  double elementSum, elementSquares;  // of the elements
};

DDAD_DECLARE_SIMD(void, normalPiece, (const NoiseSource* source, int64_t first, int64_t count, float* out))

DDAD_DECLARE_SIMD(void, noisingPiece,
                  (const StepCoefficients* k, const NoiseSource* noise, const float* x0, int64_t first, int64_t count,
                   float* xt))

// Pointers from here on are those of the piece's first pixel. `gradient` may be null; it is scaled by mseScale and
// vbScale.
DDAD_DECLARE_SIMD(void, lossPiece,
                  (const StepCoefficients* k, const NoiseSource* noise, const Piece* piece, const float* x0,
                   const float* modelOutput, float mseScale, float vbScale, float* gradient, LossSums* sums))

// `values` (channel means of the KL, or else of the squared error) and `map` (map += scale * value + offset) may be
// null.
DDAD_DECLARE_SIMD(void, scorePiece,
                  (const StepCoefficients* k, const NoiseSource* noise, const Piece* piece, const float* x0,
                   const float* modelOutput, int kl, float scale, float offset, float* values, float* map,
                   PixelSums* sums))

DDAD_DECLARE_SIMD(void, variationalPiece,
                  (const StepCoefficients* k, const NoiseSource* noise, const Piece* piece, const float* x0,
                   const float* modelOutput, int clip, int decoder, float* nats))

DDAD_DECLARE_SIMD(double, priorPiece, (const StepCoefficients* last, const float* x0, int64_t count))

DDAD_DECLARE_SIMD(void, momentsPiece, (const float* x, int64_t count, PixelSums* sums))
DDAD_DECLARE_SIMD(void, descendPiece, (float keep, float scale, const float* gradient, int64_t count, float* x))

// `ddim`, `z` and any output may be null.
DDAD_DECLARE_SIMD(void, reversePiece,
                  (const StepCoefficients* k, const DdimCoefficients* ddim, const NoiseSource* z, const Piece* piece,
                   const float* xt, const float* modelOutput, int clip, float* xstart, float* mean, float* logVariance,
                   float* next))

}  // namespace ddad
