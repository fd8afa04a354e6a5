#pragma once
// bfloat16 (the upper half of a float32) and loads of 16 bytes, written once for the CPU and CUDA.
#include <cstdint>
#include <cstring>

#include "base/host_device.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#endif

namespace ddad {

struct Bf16 {
  uint16_t bits;
};

DDAD_HD float toFloat(Bf16 x) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
#else
  const uint32_t word = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
#endif
}
DDAD_HD float toFloat(float x) { return x; }

DDAD_HD void convert(float x, float& to) { to = x; }
/// Rounded to nearest, ties to even; NaN stays NaN.
DDAD_HD void convert(float x, Bf16& to) {
#if defined(__CUDA_ARCH__)
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  uint32_t word;
  memcpy(&word, &x, sizeof word);
  if ((word & 0x7fffffffu) > 0x7f800000u)
    word |= 0x400000u;
  else
    word += 0x7fffu + ((word >> 16) & 1u);
  to.bits = static_cast<uint16_t>(word >> 16);
#endif
}
template <class T>
DDAD_HD T fromFloat(float x) {
  T to;
  convert(x, to);
  return to;
}

/// As many values as 16 bytes hold: one load or store.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T v[kSize];
};

/// `p` must be 16-byte aligned.
template <class T>
DDAD_HD Pack<T> loadPack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
template <class T>
DDAD_HD void storePack(T* p, const Pack<T>& x) {
#if defined(__CUDA_ARCH__)
  __stwb(reinterpret_cast<uint4*>(p), *reinterpret_cast<const uint4*>(&x));
#else
  *reinterpret_cast<Pack<T>*>(p) = x;
#endif
}

}  // namespace ddad
