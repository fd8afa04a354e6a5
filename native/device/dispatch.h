#pragma once
// Run-time choice of the instruction set. A file named *_simd.cpp is compiled once per instruction set, with
// DDAD_ISA naming the namespace (baseline, avx2, avx512). Such files include only plain-data headers: an inline
// function or template of the standard library compiled there could be merged into baseline code by the linker.
namespace ddad {

enum class Isa { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

/// The best instruction set of this processor, capped by DDAD_MAX_CPU_ISA (baseline, avx2 or avx512).
Isa cpuIsa();
const char* isaName(Isa isa);

}  // namespace ddad

// DDAD_DECLARE_SIMD(void, addInto, (float* y, const float* x, long n)) declares the three builds of a kernel;
// DDAD_DISPATCH(addInto)(y, x, n) calls the one for this processor.
#define DDAD_DECLARE_SIMD(RET, NAME, ARGS) \
  namespace baseline {                     \
  RET NAME ARGS;                           \
  }                                        \
  namespace avx2 {                         \
  RET NAME ARGS;                           \
  }                                        \
  namespace avx512 {                       \
  RET NAME ARGS;                           \
  }
#if defined(__x86_64__) && !defined(DDAD_BASELINE_ONLY)
#define DDAD_DISPATCH(NAME)                                 \
  (::ddad::cpuIsa() == ::ddad::Isa::kAvx512 ? &avx512::NAME \
   : ::ddad::cpuIsa() == ::ddad::Isa::kAvx2 ? &avx2::NAME   \
                                            : &baseline::NAME)
#else
#define DDAD_DISPATCH(NAME) (&baseline::NAME)
#endif
