// Nearest up-sampling and 2x2 average pooling on the GPU; see ops/resample/resample.cpp.
#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"
#include "ops/resample/resample.h"
#include "ops/resample/resample_grid.h"

namespace ddad {
namespace {

template <template <class, class> class Kernel, class From, class To>
void launch(cudaStream_t stream, const Shape& coarse, const void* from, void* to, float scale, bool accumulate) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const Kernel<From, To> kernel{{coarse.n * coarse.h, coarse.w, coarse.c},
                                static_cast<const From*>(from),
                                static_cast<To*>(to),
                                scale,
                                accumulate,
                                coarse.c % kRun == 0 && aligned(from) && aligned(to)};
  launchGrid(stream, kernel);
}

template <template <class, class> class Kernel>
void resample(cudaStream_t stream, const Shape& coarse, const void* from, bool fromHalf, void* to, bool toHalf,
              float scale, bool accumulate) {
  if (fromHalf)
    toHalf ? launch<Kernel, Bf16, Bf16>(stream, coarse, from, to, scale, accumulate)
           : launch<Kernel, Bf16, float>(stream, coarse, from, to, scale, accumulate);
  else
    toHalf ? launch<Kernel, float, Bf16>(stream, coarse, from, to, scale, accumulate)
           : launch<Kernel, float, float>(stream, coarse, from, to, scale, accumulate);
}

class CudaResample : public Op {
 public:
  explicit CudaResample(OpContext context) : Op(std::move(context)) {}
  bool backwardReadsInput(int) const override { return false; }
  void forward() override {
    if (up())
      resample<SpreadPixels>(stream(), context_.in[0], buffers_.in[0], context_.inHalf[0], buffers_.out,
                             context_.outHalf, 1.0f, false);
    else
      resample<GatherPixels>(stream(), context_.out, buffers_.in[0], context_.inHalf[0], buffers_.out, context_.outHalf,
                             0.25f, false);
  }
  void backward() override {
    if (!context_.inputGradient[0]) return;
    if (up())
      resample<GatherPixels>(stream(), context_.in[0], buffers_.outGrad, context_.outHalf, buffers_.inGrad[0],
                             context_.inHalf[0], 1.0f, buffers_.accumulate[0]);
    else
      resample<SpreadPixels>(stream(), context_.out, buffers_.outGrad, context_.outHalf, buffers_.inGrad[0],
                             context_.inHalf[0], 0.25f, buffers_.accumulate[0]);
  }

 private:
  bool up() const { return context_.record->kind == OpKind::kUpsample; }
  cudaStream_t stream() const { return cudaDevice(*context_.device).stream(); }
};

}  // namespace

std::unique_ptr<Op> makeCudaResample(OpContext context) { return std::make_unique<CudaResample>(std::move(context)); }

}  // namespace ddad
