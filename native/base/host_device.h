#pragma once
// Formulas compiled by the CPU (several instruction sets) and by CUDA. Internal linkage on the CPU on purpose: the
// same inline function exists once per instruction set, and the linker must never merge an AVX-512 copy into
// baseline code.
//
// DDAD_HD is for functions, DDAD_HD_MEMBER for members of classes, DDAD_UNROLL stands before a loop whose arrays must
// become registers.
#if defined(__CUDACC__)
#define DDAD_HD static __host__ __device__ __forceinline__
#define DDAD_HD_MEMBER __host__ __device__ __forceinline__
#define DDAD_UNROLL _Pragma("unroll")
#else
#define DDAD_HD static inline __attribute__((always_inline))
#define DDAD_HD_MEMBER inline __attribute__((always_inline))
#define DDAD_UNROLL
#endif
