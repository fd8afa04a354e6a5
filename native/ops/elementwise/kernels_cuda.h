#pragma once
// Small kernels that ops of the GPU share. Everything is enqueued on the device's stream; a flag `half` says that a
// pointer is to bf16, not float32. Nothing is allocated but columnSums' scratch, which stays where it is.
#include <cstdint>

#include "device/cuda/device_cuda.h"
#include "graph/graph.h"

namespace ddad {

/// Rows of `fromChannels` values become rows of `toChannels`: the first ones, and zeros where there are none left. With
/// `accumulate` they are added to what is there. `to` may be `from` where nothing changes place.
void convertChannelsCuda(const CudaDevice& device, const void* from, bool fromHalf, int64_t fromChannels, void* to,
                         bool toHalf, int64_t toChannels, int64_t rows, bool accumulate);

/// y = f(x) over n values; y may be x.
void activateCuda(const CudaDevice& device, Activation activation, const void* x, void* y, bool half, int64_t n);

/// dx = dy f'(x) over n values, all of one type; `kept` is x for silu, f(x) for relu6. dx may be dy.
void activationGradientCuda(const CudaDevice& device, Activation activation, const void* kept, const void* dy, void* dx,
                            bool half, int64_t n);

/// out[r, c] = f(sums[r, c] + bias[c] + added[r, c]) for c < outChannels; rows of `sums` are `sumChannels` long. `bias`
/// and `added` may be null; `sums` or `added` may be `out` where type and length are the same.
void convEpilogueCuda(const CudaDevice& device, const void* sums, bool sumsHalf, int64_t sumChannels, const float* bias,
                      const void* added, bool addedHalf, Activation activation, void* out, bool outHalf,
                      int64_t outChannels, int64_t rows);

/// to[c] = the sum of x[r, c] over the rows: the gradient of a bias. The same in every run.
void columnSumsCuda(const CudaDevice& device, const void* x, bool half, int64_t rows, int64_t columns, float* to);

/// scores[r, :] = softmax(scale * scores[r, :]), float32.
void softmaxRowsCuda(const CudaDevice& device, float* scores, int64_t rows, int64_t columns, float scale);

/// Given p of softmaxRows and the gradient by p: gradient[r, :] becomes that by the scores.
void softmaxRowsGradientCuda(const CudaDevice& device, const float* p, float* gradient, int64_t rows, int64_t columns,
                             float scale);

/// Rounds n floats to bf16.
void toHalfCuda(const CudaDevice& device, const float* from, int64_t n, void* to);

/// Sets *result to 1 where one of n floats is not finite; leaves it else.
void findNonFiniteCuda(const CudaDevice& device, const float* x, int64_t n, int32_t* result);

}  // namespace ddad
