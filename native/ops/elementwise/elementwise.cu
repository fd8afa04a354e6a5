#include <cstdint>

#include "device/cuda/grid_cuda.cuh"
#include "ops/elementwise/elementwise_grid.h"
#include "ops/elementwise/kernels_cuda.h"

namespace ddad {
namespace {

template <class... Pointers>
bool allAligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

/// Calls f with a null pointer of the type that `half` says.
template <class F>
void withType(bool half, F f) {
  if (half)
    f(static_cast<Bf16*>(nullptr));
  else
    f(static_cast<float*>(nullptr));
}

template <class From, class To>
void convertRows(cudaStream_t stream, const From* from, int64_t fromChannels, To* to, int64_t toChannels, int64_t rows,
                 bool accumulate) {
  if (fromChannels == toChannels) {
    const ConvertFlat<From, To> kernel{{rows * toChannels, allAligned(from, to)}, from, to, accumulate};
    launchGrid(stream, kernel);
  } else {
    const ConvertRows<From, To> kernel{from, to, rows, fromChannels, toChannels, accumulate};
    launchGrid(stream, kernel);
  }
}

}  // namespace

void convertChannelsCuda(const CudaDevice& device, const void* from, bool fromHalf, int64_t fromChannels, void* to,
                         bool toHalf, int64_t toChannels, int64_t rows, bool accumulate) {
  withType(fromHalf, [&](auto* source) {
    withType(toHalf, [&](auto* target) {
      convertRows(device.stream(), static_cast<decltype(source)>(const_cast<void*>(from)), fromChannels,
                  static_cast<decltype(target)>(to), toChannels, rows, accumulate);
    });
  });
}

void activateCuda(const CudaDevice& device, Activation activation, const void* x, void* y, bool half, int64_t n) {
  withType(half, [&](auto* type) {
    using Pointer = decltype(type);
    using T = std::remove_pointer_t<Pointer>;
    const Activate<T> kernel{{n, allAligned(x, y)}, static_cast<const T*>(x), static_cast<T*>(y), activation};
    launchGrid(device.stream(), kernel);
  });
}

void activationGradientCuda(const CudaDevice& device, Activation activation, const void* kept, const void* dy, void* dx,
                            bool half, int64_t n) {
  withType(half, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const ActivationGradient<T> kernel{{n, allAligned(kept, dy, dx)},
                                       static_cast<const T*>(kept),
                                       static_cast<const T*>(dy),
                                       static_cast<T*>(dx),
                                       activation};
    launchGrid(device.stream(), kernel);
  });
}

void convEpilogueCuda(const CudaDevice& device, const void* sums, bool sumsHalf, int64_t sumChannels, const float* bias,
                      const void* added, bool addedHalf, Activation activation, void* out, bool outHalf,
                      int64_t outChannels, int64_t rows) {
  withType(sumsHalf, [&](auto* sumType) {
    withType(addedHalf, [&](auto* addedType) {
      withType(outHalf, [&](auto* outType) {
        using Sum = std::remove_pointer_t<decltype(sumType)>;
        using Added = std::remove_pointer_t<decltype(addedType)>;
        using Out = std::remove_pointer_t<decltype(outType)>;
        const bool aligned = allAligned(sums, added, out) && sumChannels % kRun == 0 && outChannels % kRun == 0;
        const EpilogueRows<Sum, Added, Out> kernel{static_cast<const Sum*>(sums),
                                                   bias,
                                                   static_cast<const Added*>(added),
                                                   static_cast<Out*>(out),
                                                   rows,
                                                   sumChannels,
                                                   outChannels,
                                                   activation,
                                                   aligned};
        launchGrid(device.stream(), kernel);
      });
    });
  });
}

void toHalfCuda(const CudaDevice& device, const float* from, int64_t n, void* to) {
  convertChannelsCuda(device, from, false, 1, to, true, 1, n, false);
}

}  // namespace ddad
