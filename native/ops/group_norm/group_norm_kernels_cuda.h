#pragma once
#include <cuda_runtime.h>

#include "ops/group_norm/group_norm_totals_grid.h"

namespace ddad {

/// One norm: its memory and what backward wants. Values of a source and their gradients are of one type, those of the
/// output of another.
struct NormCall {
  NormParameters k;
  NormTile tile;
  const void* x[2];
  int64_t channels[2];
  void* out;
  const void* dy;
  void* dx[2];
  bool accumulate[2];
  bool half, outHalf, silu;
  float *a, *b, *h, *mu, *hat;          // saved, [samples, channels] each
  float *s1, *s2;                       // [samples, chunks, channels]
  float *total1, *total2, *p, *q, *r;   // [samples, channels], of backward
  float *gammaGradient, *betaGradient;  // null where they are not wanted
  float* embeddingGradient;             // likewise
  bool accumulateEmbedding;
};

void launchNormForward(cudaStream_t stream, const NormCall& call);
void launchNormBackward(cudaStream_t stream, const NormCall& call);

}  // namespace ddad
