#pragma once
// Formulas compiled by the CPU (several instruction sets) and by CUDA. Internal linkage on the CPU on purpose: the
// same inline function exists once per instruction set, and the linker must never merge an AVX-512 copy into
// baseline code.
#if defined(__CUDACC__)
#define DDAD_HD static __host__ __device__ __forceinline__
#else
#define DDAD_HD static inline __attribute__((always_inline))
#endif
