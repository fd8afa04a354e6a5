#pragma once
// Bodies of the small kernels of ops/kernels_cuda.h. A thread takes kRun values in a row: 16 bytes of bf16, twice 16 of
// float32.
#include <cstdint>

#include "device/grid.h"
#include "ops/graph.h"
#include "tensor/bf16.h"
#include "tensor/vecmath.h"

namespace ddad {

constexpr int kRun = 8;

template <class T>
DDAD_HD void loadRun(const T* from, float to[kRun]) {
  constexpr int kSize = Pack<T>::kSize;
  DDAD_UNROLL
  for (int i = 0; i < kRun; i += kSize) {
    const Pack<T> pack = loadPack(from + i);
    DDAD_UNROLL
    for (int k = 0; k < kSize; ++k) to[i + k] = toFloat(pack.v[k]);
  }
}

template <class T>
DDAD_HD void storeRun(const float from[kRun], T* to) {
  constexpr int kSize = Pack<T>::kSize;
  DDAD_UNROLL
  for (int i = 0; i < kRun; i += kSize) {
    Pack<T> pack;
    DDAD_UNROLL
    for (int k = 0; k < kSize; ++k) convert(from[i + k], pack.v[k]);
    storePack(to + i, pack);
  }
}

#if defined(__CUDA_ARCH__)
/// Two values an instruction.
__device__ __forceinline__ void storeRun(const float from[kRun], Bf16* to) {
  Pack<uint32_t> pack;  // of plain words: __nv_bfloat162 is copied one by one
#pragma unroll
  for (int i = 0; i < kRun / 2; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
    memcpy(&pack.v[i], &pair, sizeof pair);
  }
  storePack(reinterpret_cast<uint32_t*>(to), pack);
}
#endif

/// The values of a run that there are, one by one: where it is not whole, or not aligned.
template <class T>
DDAD_HD void loadSome(const T* from, int count, float to[kRun]) {
  DDAD_UNROLL
  for (int i = 0; i < kRun; ++i) to[i] = i < count ? toFloat(from[i]) : 0.0f;
}
template <class T>
DDAD_HD void storeSome(const float from[kRun], int count, T* to) {
  DDAD_UNROLL
  for (int i = 0; i < kRun; ++i)
    if (i < count) convert(from[i], to[i]);
}

DDAD_HD float sigmoidOf(float x) { return 1.0f / (1.0f + fastExp(-x)); }

/// The same for a result of type T: where that keeps 8 bits, the GPU's short forms of exp and division do, which are
/// good for 21.
template <class T>
DDAD_HD float sigmoidFor(float x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 2) return __fdividef(1.0f, 1.0f + __expf(-x));
#endif
  return sigmoidOf(x);
}

DDAD_HD float activated(Activation activation, float x) {
  if (activation == Activation::kSilu) return x * sigmoidOf(x);
  if (activation == Activation::kRelu6) return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x;
  return x;
}

/// f'(x); of relu6 from its value.
DDAD_HD float activationSlope(Activation activation, float kept) {
  if (activation == Activation::kSilu) {
    const float s = sigmoidOf(kept);
    return s * (1.0f + kept * (1.0f - s));
  }
  if (activation == Activation::kRelu6) return kept > 0.0f && kept < 6.0f ? 1.0f : 0.0f;
  return 1.0f;
}

/// A kernel over n values in a row: Derived::apply(first, whole, count) does a run.
template <class Derived>
struct FlatKernel {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  int64_t n;
  bool aligned;  // all pointers to 16 bytes

  GridIndex extent() const { return {static_cast<int>(blocksOf(n, int64_t{kThreads} * kRun)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t first = (static_cast<int64_t>(block.x) * kThreads + thread) * kRun;
    if (first >= n) return;
    const int64_t left = n - first;
    static_cast<const Derived*>(this)->apply(first, aligned && left >= kRun,
                                             left < kRun ? static_cast<int>(left) : kRun);
  }
};

/// to = from, or to += from.
template <class From, class To>
struct ConvertFlat : FlatKernel<ConvertFlat<From, To>> {
  const From* from;
  To* to;
  bool accumulate;

  DDAD_HD_MEMBER void apply(int64_t first, bool whole, int count) const {
    float x[kRun], before[kRun];
    if (whole) {
      loadRun(from + first, x);
      if (accumulate) loadRun(to + first, before);
    } else {
      loadSome(from + first, count, x);
      if (accumulate) loadSome(to + first, count, before);
    }
    if (accumulate) DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) x[i] += before[i];
    if (whole)
      storeRun(x, to + first);
    else
      storeSome(x, count, to + first);
  }
};

/// Rows of other lengths, a value a thread.
template <class From, class To>
struct ConvertRows {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  const From* from;
  To* to;
  int64_t rows, fromChannels, toChannels;
  bool accumulate;

  GridIndex extent() const { return {static_cast<int>(blocksOf(rows * toChannels, kThreads)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t i = static_cast<int64_t>(block.x) * kThreads + thread;
    if (i >= rows * toChannels) return;
    const int64_t row = i / toChannels, c = i - row * toChannels;
    float value = c < fromChannels ? toFloat(from[row * fromChannels + c]) : 0.0f;
    if (accumulate) value += toFloat(to[i]);
    convert(value, to[i]);
  }
};

template <class T>
struct Activate : FlatKernel<Activate<T>> {
  const T* x;
  T* y;
  Activation activation;

  DDAD_HD_MEMBER void apply(int64_t first, bool whole, int count) const {
    float values[kRun];
    if (whole)
      loadRun(x + first, values);
    else
      loadSome(x + first, count, values);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) values[i] = activated(activation, values[i]);
    if (whole)
      storeRun(values, y + first);
    else
      storeSome(values, count, y + first);
  }
};

template <class T>
struct ActivationGradient : FlatKernel<ActivationGradient<T>> {
  const T *kept, *dy;
  T* dx;
  Activation activation;

  DDAD_HD_MEMBER void apply(int64_t first, bool whole, int count) const {
    float x[kRun], gradient[kRun];
    if (whole) {
      loadRun(kept + first, x);
      loadRun(dy + first, gradient);
    } else {
      loadSome(kept + first, count, x);
      loadSome(dy + first, count, gradient);
    }
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) gradient[i] *= activationSlope(activation, x[i]);
    if (whole)
      storeRun(gradient, dx + first);
    else
      storeSome(gradient, count, dx + first);
  }
};

/// A run of channels of one row a thread; rows that are not whole runs, value by value.
template <class Sum, class Added, class Out>
struct EpilogueRows {
  static constexpr int kThreads = 256, kPhases = 1;
  struct Shared {};
  const Sum* sums;
  const float* bias;
  const Added* added;
  Out* out;
  int64_t rows, sumChannels, outChannels;
  Activation activation;
  bool aligned;  // all pointers to 16 bytes, and channels in whole runs

  DDAD_HD_MEMBER int64_t runs() const { return blocksOf(outChannels, kRun); }
  GridIndex extent() const { return {static_cast<int>(blocksOf(rows * runs(), kThreads)), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared&) const {
    const int64_t i = static_cast<int64_t>(block.x) * kThreads + thread, row = i / runs();
    if (row >= rows) return;
    const int64_t c = (i - row * runs()) * kRun;
    const int count = outChannels - c < kRun ? static_cast<int>(outChannels - c) : kRun;
    float x[kRun], more[kRun];
    if (aligned)
      loadRun(sums + row * sumChannels + c, x);
    else
      loadSome(sums + row * sumChannels + c, count, x);
    if (bias != nullptr) DDAD_UNROLL
    for (int k = 0; k < kRun; ++k) x[k] += k < count ? bias[c + k] : 0.0f;
    if (added != nullptr) {
      if (aligned)
        loadRun(added + row * outChannels + c, more);
      else
        loadSome(added + row * outChannels + c, count, more);
      DDAD_UNROLL
      for (int k = 0; k < kRun; ++k) x[k] += more[k];
    }
    DDAD_UNROLL
    for (int k = 0; k < kRun; ++k) x[k] = activated(activation, x[k]);
    if (aligned)
      storeRun(x, out + row * outChannels + c);
    else
      storeSome(x, count, out + row * outChannels + c);
  }
};

}  // namespace ddad
