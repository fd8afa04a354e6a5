#include "base/philox.h"
#include "noise/noise_kernels.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

/// The network's output of a piece, eps and v apart.
struct Outputs {
  float eps[kPieceElements];
  float v[kPieceElements];
};

// Interleaved 2C channels <-> two arrays. C is a constant where it is 1 or 3, so that the loops vectorise.
template <int kChannels>
inline void splitChannels(const float* from, int64_t pixels, int channels, float* eps, float* v) {
  const int c = kChannels > 0 ? kChannels : channels;
  for (int64_t p = 0; p < pixels; ++p)
    for (int i = 0; i < c; ++i) {
      eps[p * c + i] = from[p * 2 * c + i];
      v[p * c + i] = from[p * 2 * c + c + i];
    }
}

template <int kChannels>
inline void joinChannels(const float* eps, const float* v, int64_t pixels, int channels, float* to) {
  const int c = kChannels > 0 ? kChannels : channels;
  for (int64_t p = 0; p < pixels; ++p)
    for (int i = 0; i < c; ++i) {
      to[p * 2 * c + i] = eps[p * c + i];
      to[p * 2 * c + c + i] = v[p * c + i];
    }
}

inline void split(const float* from, const Piece& piece, Outputs* out) {
  if (piece.channels == 1)
    splitChannels<1>(from, piece.pixels, 1, out->eps, out->v);
  else if (piece.channels == 3)
    splitChannels<3>(from, piece.pixels, 3, out->eps, out->v);
  else
    splitChannels<0>(from, piece.pixels, piece.channels, out->eps, out->v);
}

inline void join(const Outputs& from, const Piece& piece, float* to) {
  if (piece.channels == 1)
    joinChannels<1>(from.eps, from.v, piece.pixels, 1, to);
  else if (piece.channels == 3)
    joinChannels<3>(from.eps, from.v, piece.pixels, 3, to);
  else
    joinChannels<0>(from.eps, from.v, piece.pixels, piece.channels, to);
}

/// The noise of a piece: in place where it is given, else drawn into `scratch`.
inline const float* noiseOf(const NoiseSource* source, int64_t first, int64_t count, float* scratch) {
  if (source->values != nullptr) return source->values + first;
  normalPiece(source, first, count, scratch);
  return scratch;
}

double sumOf(const float* x, int64_t n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

double squaresOf(const float* x, int64_t n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

}  // namespace

void normalPiece(const NoiseSource* source, int64_t first, int64_t count, float* out) {
  if (source->values != nullptr) {
    for (int64_t i = 0; i < count; ++i) out[i] = source->values[first + i];
    return;
  }
  const uint64_t seed = source->seed;
  const uint32_t stream = source->stream, step = source->step, sample = source->sample;
  const uint32_t block = static_cast<uint32_t>(first / 4);
  const int64_t whole = count / 4;
  for (int64_t b = 0; b < whole; ++b)
    philoxNormal4(seed, stream, step, sample, block + static_cast<uint32_t>(b), out + 4 * b);
  if (4 * whole < count) {
    float last[4];
    philoxNormal4(seed, stream, step, sample, block + static_cast<uint32_t>(whole), last);
    for (int64_t i = 4 * whole; i < count; ++i) out[i] = last[i - 4 * whole];
  }
}

void noisingPiece(const StepCoefficients* k, const NoiseSource* noise, const float* x0, int64_t first, int64_t count,
                  float* xt) {
  float scratch[kPieceElements];
  const float* eps = noiseOf(noise, first, count, scratch);
  const StepCoefficients step = *k;
  for (int64_t i = 0; i < count; ++i) xt[i] = qSample(step, x0[i], eps[i]);
}

void lossPiece(const StepCoefficients* k, const NoiseSource* noise, const Piece* piece, const float* x0,
               const float* modelOutput, float mseScale, float vbScale, float* gradient, LossSums* sums) {
  const StepCoefficients step = *k;
  const int64_t n = piece->pixels * piece->channels;
  float scratch[kPieceElements], error[kPieceElements], nats[kPieceElements];
  Outputs out;
  split(modelOutput, *piece, &out);
  const float* eps = noiseOf(noise, piece->first, n, scratch);
  for (int64_t i = 0; i < n; ++i) error[i] = eps[i] - out.eps[i];
  if (step.first)
    for (int64_t i = 0; i < n; ++i) {
      float dv;
      nats[i] = decoderNllGradient(step, x0[i], step.sqrtRecipm1 * error[i], out.v[i], &dv);
      out.v[i] = dv * vbScale;
    }
  else
    for (int64_t i = 0; i < n; ++i) {
      float dv;
      nats[i] = klNatsGradient(step, step.sqrtRecipm1 * error[i], out.v[i], &dv);
      out.v[i] = dv * vbScale;
    }
  sums->mse = squaresOf(error, n);
  sums->vb = sumOf(nats, n);
  if (gradient == nullptr) return;
  for (int64_t i = 0; i < n; ++i) out.eps[i] = error[i] * (-2.0f * mseScale);
  join(out, *piece, gradient);
}

void scorePiece(const StepCoefficients* k, const NoiseSource* noise, const Piece* piece, const float* x0,
                const float* modelOutput, int kl, float scale, float offset, float* values, float* map,
                PixelSums* sums) {
  const StepCoefficients step = *k;
  const int channels = piece->channels;
  const int64_t pixels = piece->pixels, n = pixels * channels;
  float scratch[kPieceElements], measured[kPieceElements], means[kPieceElements];
  Outputs out;
  split(modelOutput, *piece, &out);
  const float* eps = noiseOf(noise, piece->first, n, scratch);
  for (int64_t i = 0; i < n; ++i) measured[i] = clampedXStartError(step, x0[i], eps[i], out.eps[i]);
  if (kl)
    for (int64_t i = 0; i < n; ++i) measured[i] = klNats(step, measured[i], out.v[i]);
  else
    for (int64_t i = 0; i < n; ++i) measured[i] *= measured[i];
  const float* mean = measured;
  if (channels == 3) {
    for (int64_t p = 0; p < pixels; ++p)
      means[p] = (measured[3 * p] + measured[3 * p + 1] + measured[3 * p + 2]) * (1.0f / 3.0f);
    mean = means;
  } else if (channels != 1) {
    for (int64_t p = 0; p < pixels; ++p) {
      float sum = 0.0f;
      for (int c = 0; c < channels; ++c) sum += measured[p * channels + c];
      means[p] = sum / static_cast<float>(channels);
    }
    mean = means;
  }
  sums->sum = sumOf(mean, pixels);
  sums->squares = squaresOf(mean, pixels);
  sums->elementSum = sumOf(measured, n);
  sums->elementSquares = squaresOf(measured, n);
  if (values != nullptr)
    for (int64_t p = 0; p < pixels; ++p) values[p] = mean[p];
  if (map != nullptr)
    for (int64_t p = 0; p < pixels; ++p) map[p] += scale * mean[p] + offset;
}

void variationalPiece(const StepCoefficients* k, const NoiseSource* noise, const Piece* piece, const float* x0,
                      const float* modelOutput, int clip, int decoder, float* nats) {
  const StepCoefficients step = *k;
  const int64_t n = piece->pixels * piece->channels;
  float scratch[kPieceElements], error[kPieceElements];
  Outputs out;
  split(modelOutput, *piece, &out);
  const float* eps = noiseOf(noise, piece->first, n, scratch);
  for (int64_t i = 0; i < n; ++i)
    error[i] = clip ? clampedXStartError(step, x0[i], eps[i], out.eps[i]) : xStartError(step, eps[i], out.eps[i]);
  float dv;
  if (decoder)
    for (int64_t i = 0; i < n; ++i) nats[i] = decoderNllGradient(step, x0[i], error[i], out.v[i], &dv);
  else
    for (int64_t i = 0; i < n; ++i) nats[i] = klNats(step, error[i], out.v[i]);
}

double priorPiece(const StepCoefficients* last, const float* x0, int64_t count) {
  const StepCoefficients step = *last;
  float nats[kPieceElements];
  for (int64_t i = 0; i < count; ++i) nats[i] = priorKlNats(step, x0[i]);
  return sumOf(nats, count);
}

void momentsPiece(const float* x, int64_t count, PixelSums* sums) {
  sums->elementSum = sumOf(x, count);
  sums->elementSquares = squaresOf(x, count);
}

void descendPiece(float keep, float scale, const float* gradient, int64_t count, float* x) {
  for (int64_t i = 0; i < count; ++i) x[i] = gradientStep(keep, scale, x[i], gradient[i]);
}

void reversePiece(const StepCoefficients* k, const DdimCoefficients* ddim, const NoiseSource* z, const Piece* piece,
                  const float* xt, const float* modelOutput, int clip, float* xstart, float* mean, float* logVariance,
                  float* next) {
  const StepCoefficients step = *k;
  const int64_t n = piece->pixels * piece->channels;
  float scratch[kPieceElements], start[kPieceElements];
  Outputs out;
  split(modelOutput, *piece, &out);
  for (int64_t i = 0; i < n; ++i) {
    const float x = predictXStart(step, xt[i], out.eps[i]);
    start[i] = clip ? clampUnit(x) : x;
  }
  if (xstart != nullptr)
    for (int64_t i = 0; i < n; ++i) xstart[i] = start[i];
  if (mean != nullptr)
    for (int64_t i = 0; i < n; ++i) mean[i] = posteriorMean(step, start[i], xt[i]);
  if (logVariance != nullptr)
    for (int64_t i = 0; i < n; ++i) logVariance[i] = modelLogVariance(step, out.v[i]);
  if (next == nullptr) return;
  const float* noise = scratch;
  if (z != nullptr)
    noise = noiseOf(z, piece->first, n, scratch);
  else
    for (int64_t i = 0; i < n; ++i) scratch[i] = 0.0f;
  if (ddim != nullptr) {
    const DdimCoefficients direction = *ddim;
    for (int64_t i = 0; i < n; ++i) next[i] = ddimStep(step, direction, start[i], xt[i], noise[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) next[i] = ddpmStep(step, start[i], xt[i], out.v[i], noise[i]);
  }
}

}  // namespace DDAD_ISA
}  // namespace ddad
