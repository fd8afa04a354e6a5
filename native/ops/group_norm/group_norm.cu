#include <cstdint>

#include "device/cuda/grid_cuda.cuh"
#include "ops/group_norm/group_norm_kernels_cuda.h"

namespace ddad {
namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <class T>
NormSources<T> sourcesOf(const NormCall& call) {
  const bool whole = call.channels[0] % kRun == 0 && call.channels[1] % kRun == 0;
  return {{static_cast<const T*>(call.x[0]), static_cast<const T*>(call.x[1])},
          {call.channels[0], call.channels[1]},
          call.k.pixels,
          whole && aligned(call.x[0]) && aligned(call.x[1])};
}

template <class T, class Out>
void forward(cudaStream_t stream, const NormCall& call) {
  const NormSources<T> sources = sourcesOf<T>(call);
  const GridIndex extent = call.tile.extent(call.k.samples);
  launchGrid(stream, NormSums<T>{call.tile, sources, call.s1, call.s2}, extent);
  const NormStatistics<T> statistics{call.k, sources, call.s1, call.s2, call.a, call.b, call.h, call.mu, call.hat};
  launchGrid(stream, statistics);
  const bool alignedOut = call.k.channels % kRun == 0 && aligned(call.out);
  launchGrid(stream,
             NormApply<T, Out>{call.tile, sources, call.a, call.b, static_cast<Out*>(call.out), call.silu, alignedOut},
             extent);
}

template <class T, class Out>
void backward(cudaStream_t stream, const NormCall& call) {
  const NormSources<T> sources = sourcesOf<T>(call);
  const GridIndex extent = call.tile.extent(call.k.samples);
  const auto* const dy = static_cast<const Out*>(call.dy);
  const bool alignedOut = call.k.channels % kRun == 0 && aligned(call.dy);
  launchGrid(
      stream,
      NormGradSums<T, Out>{call.tile, sources, dy, call.a, call.b, call.mu, call.silu, alignedOut, call.s1, call.s2},
      extent);
  const bool adds = call.k.added != nullptr;
  const NormGradTotals totals{call.k,
                              call.s1,
                              call.s2,
                              call.h,
                              call.mu,
                              call.hat,
                              call.total1,
                              call.total2,
                              call.p,
                              call.q,
                              call.r,
                              adds ? call.embeddingGradient : nullptr,
                              call.accumulateEmbedding};
  launchGrid(stream, totals);
  const NormParameterGradients parameters{call.k,
                                          call.total1,
                                          call.total2,
                                          call.gammaGradient,
                                          call.betaGradient,
                                          adds ? nullptr : call.embeddingGradient,
                                          call.accumulateEmbedding};
  launchGrid(stream, parameters);
  if (call.dx[0] == nullptr && call.dx[1] == nullptr) return;
  const bool alignedGradient = sources.aligned && aligned(call.dx[0]) && aligned(call.dx[1]);
  launchGrid(stream,
             NormGradApply<T, Out>{call.tile,
                                   sources,
                                   dy,
                                   call.a,
                                   call.b,
                                   call.p,
                                   call.q,
                                   call.r,
                                   {static_cast<T*>(call.dx[0]), static_cast<T*>(call.dx[1])},
                                   {call.accumulate[0], call.accumulate[1]},
                                   call.silu,
                                   alignedOut,
                                   alignedGradient},
             extent);
}

}  // namespace

void launchNormForward(cudaStream_t stream, const NormCall& call) {
  if (call.half)
    call.outHalf ? forward<Bf16, Bf16>(stream, call) : forward<Bf16, float>(stream, call);
  else
    call.outHalf ? forward<float, Bf16>(stream, call) : forward<float, float>(stream, call);
}

void launchNormBackward(cudaStream_t stream, const NormCall& call) {
  if (call.half)
    call.outHalf ? backward<Bf16, Bf16>(stream, call) : backward<Bf16, float>(stream, call);
  else
    call.outHalf ? backward<float, Bf16>(stream, call) : backward<float, float>(stream, call);
}

}  // namespace ddad
