#pragma once
// The register tile that all matrix products share; only for *_simd.cpp files.
#include <cstdint>

#include "device/simd.h"

namespace ddad {
namespace DDAD_ISA {
namespace {

constexpr int kMaxRows = 12;

// acc[MR][NV] += A (MR rows by pointer, all taps) * B (the first NV vectors of a panel of PV).
template <int MR, int NV, int PV = NV>
inline __attribute__((always_inline)) void innerProduct(const float* const* rows, int taps, int64_t k, const float* b,
                                                        Vec (&acc)[MR][NV]) {
  for (int tap = 0; tap < taps; ++tap) {
    const float* a[MR];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) a[m] = rows[tap * kMaxRows + m];
    for (int64_t i = 0; i < k; ++i) {
      Vec bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = load(b + j * kVl);
      b += PV * kVl;
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
        const float value = a[m][i];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[m][j] += value * bv[j];
      }
    }
  }
}

}  // namespace
}  // namespace DDAD_ISA
}  // namespace ddad
