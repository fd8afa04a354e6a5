#pragma once
// The vector type of the instruction set that a *_simd.cpp file is being compiled for.
#include "base/host_device.h"

#if defined(__AVX512F__)
#define DDAD_VL 16
#elif defined(__AVX2__)
#define DDAD_VL 8
#else
#define DDAD_VL 4
#endif

namespace ddad {
namespace DDAD_ISA {

typedef float Vec __attribute__((vector_size(DDAD_VL * 4), may_alias));
typedef float VecUnaligned __attribute__((vector_size(DDAD_VL * 4), aligned(4), may_alias));

constexpr int kVl = DDAD_VL;

static inline __attribute__((always_inline)) Vec load(const float* p) { return *(const VecUnaligned*)p; }
static inline __attribute__((always_inline)) void store(float* p, Vec v) { *(VecUnaligned*)p = v; }

}  // namespace DDAD_ISA
}  // namespace ddad
