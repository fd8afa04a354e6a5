#pragma once
// Bodies of the small kernels of ops/elementwise/kernels_cuda.h. A thread takes kRun values in a row: 16 bytes of bf16,
// twice 16 of float32.
#include <cstdint>

#include "base/bf16.h"
#include "device/grid.h"
#include "graph/graph.h"
#include "ops/elementwise/activation_math.h"

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

/// A run where it is whole and aligned, what there is of it else.
template <class T>
DDAD_HD void loadValues(const T* from, bool whole, int count, float to[kRun]) {
  if (whole)
    loadRun(from, to);
  else
    loadSome(from, count, to);
}
template <class T>
DDAD_HD void storeValues(const float from[kRun], bool whole, int count, T* to) {
  if (whole)
    storeRun(from, to);
  else
    storeSome(from, count, to);
}

DDAD_HD void addRun(float to[kRun], const float x[kRun]) {
  DDAD_UNROLL
  for (int i = 0; i < kRun; ++i) to[i] += x[i];
}

/// The sigmoid for a result of type T: where that keeps 8 bits, the GPU's short forms of exp and division do, which are
/// good for 21.
template <class T>
DDAD_HD float sigmoidFor(float x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 2) return __fdividef(1.0f, 1.0f + __expf(-x));
#endif
  return sigmoidOf(x);
}

DDAD_HD float activated(Activation activation, float x) {
  if (activation == Activation::kSilu) return siluOf(x);
  return activation == Activation::kRelu6 ? relu6Of(x) : x;
}

/// f'(x); of relu6 from its value.
DDAD_HD float activationSlope(Activation activation, float kept) {
  if (activation == Activation::kSilu) return siluSlope(kept, sigmoidOf(kept));
  return activation == Activation::kRelu6 ? relu6Slope(kept) : 1.0f;
}

/// A kernel over n values in a row: Derived::apply(first, whole, count) does a run.
template <class Derived>
struct FlatKernel {
  int64_t n;
  bool aligned;  // all pointers to 16 bytes

  DDAD_HD_MEMBER int64_t items() const { return blocksOf(n, kRun); }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t first = i * kRun, left = n - first;
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
    loadValues(from + first, whole, count, x);
    if (accumulate) {
      loadValues(to + first, whole, count, before);
      addRun(x, before);
    }
    storeValues(x, whole, count, to + first);
  }
};

/// Rows of other lengths, a value a thread.
template <class From, class To>
struct ConvertRows {
  const From* from;
  To* to;
  int64_t rows, fromChannels, toChannels;
  bool accumulate;

  DDAD_HD_MEMBER int64_t items() const { return rows * toChannels; }
  DDAD_HD_MEMBER void item(int64_t i) const {
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
    loadValues(x + first, whole, count, values);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) values[i] = activated(activation, values[i]);
    storeValues(values, whole, count, y + first);
  }
};

template <class T>
struct ActivationGradient : FlatKernel<ActivationGradient<T>> {
  const T *kept, *dy;
  T* dx;
  Activation activation;

  DDAD_HD_MEMBER void apply(int64_t first, bool whole, int count) const {
    float x[kRun], gradient[kRun];
    loadValues(kept + first, whole, count, x);
    loadValues(dy + first, whole, count, gradient);
    DDAD_UNROLL
    for (int i = 0; i < kRun; ++i) gradient[i] *= activationSlope(activation, x[i]);
    storeValues(gradient, whole, count, dx + first);
  }
};

/// A run of channels of one row a thread; rows that are not whole runs, value by value.
template <class Sum, class Added, class Out>
struct EpilogueRows {
  const Sum* sums;
  const float* bias;
  const Added* added;
  Out* out;
  int64_t rows, sumChannels, outChannels;
  Activation activation;
  bool aligned;  // all pointers to 16 bytes, and channels in whole runs

  DDAD_HD_MEMBER int64_t runs() const { return blocksOf(outChannels, kRun); }
  DDAD_HD_MEMBER int64_t items() const { return rows * runs(); }
  DDAD_HD_MEMBER void item(int64_t i) const {
    const int64_t row = i / runs(), c = (i - row * runs()) * kRun;
    const int count = outChannels - c < kRun ? static_cast<int>(outChannels - c) : kRun;
    float x[kRun], more[kRun];
    loadValues(sums + row * sumChannels + c, aligned, count, x);
    if (bias != nullptr) {
      loadSome(bias + c, count, more);
      addRun(x, more);
    }
    if (added != nullptr) {
      loadValues(added + row * outChannels + c, aligned, count, more);
      addRun(x, more);
    }
    DDAD_UNROLL
    for (int k = 0; k < kRun; ++k) x[k] = activated(activation, x[k]);
    storeValues(x, aligned, count, out + row * outChannels + c);
  }
};

}  // namespace ddad
