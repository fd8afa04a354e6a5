// Squeeze-and-excitation on the GPU, float32: it is the backbone's. See ops/squeeze_excite/squeeze_excite.cpp.
#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"
#include "ops/squeeze_excite/squeeze_excite.h"
#include "ops/squeeze_excite/squeeze_excite_grid.h"

namespace ddad {
namespace {

class CudaSqueezeExcite : public Op {
 public:
  explicit CudaSqueezeExcite(OpContext context)
      : Op(std::move(context)),
        samples_(context_.out.n),
        pixels_(context_.out.h * context_.out.w),
        channels_(context_.out.c),
        reduced_(attr().reduced) {
    if (context_.inHalf[0] || context_.outHalf)
      throw Error("ERR_INTERNAL", context_.record->name + ": squeeze-and-excitation of bf16 was asked for");
  }

  double flops() const override {
    return static_cast<double>(2 * context_.out.size() + 4 * samples_ * channels_ * reduced_);
  }
  int64_t savedFloats() const override { return samples_ * saved().size(); }
  int64_t backwardWorkspaceFloats() const override { return samples_ * (2 * channels_ + reduced_); }

  void forward() override {
    sums(buffers_.in[0], nullptr, buffers_.saved, saved().size(), 1.0f / static_cast<float>(pixels_));
    const SqueezeGate gate{saved(),           buffers_.param[0], buffers_.param[1], buffers_.param[2],
                           buffers_.param[3], attr().activation, samples_};
    launchGrid(stream(), gate);
    const SqueezeScale scale{saved(), buffers_.in[0], nullptr, buffers_.out, samples_, pixels_, false};
    launchGrid(stream(), scale);
  }

  void backward() override {
    float *gate = buffers_.backwardWorkspace, *shift = gate + samples_ * channels_,
          *argument = shift + samples_ * channels_;
    sums(buffers_.in[0], buffers_.outGrad, gate, channels_, 1.0f);
    const SqueezeVectorGradients vectors{
        saved(), buffers_.param[0], buffers_.param[2], attr().activation, gate, argument, shift, samples_, pixels_};
    launchGrid(stream(), vectors);
    if (context_.inputGradient[0]) {
      const SqueezeScale scale{saved(),
                               buffers_.outGrad,
                               shift,
                               buffers_.inGrad[0],
                               samples_,
                               pixels_,
                               static_cast<bool>(buffers_.accumulate[0])};
      launchGrid(stream(), scale);
    }
    if (!context_.paramGradient) return;
    const SqueezeWeightGradient first{argument,
                                      saved().mean(0),
                                      samples_,
                                      reduced_,
                                      channels_,
                                      reduced_,
                                      saved().size(),
                                      buffers_.paramGrad[0],
                                      buffers_.paramGrad[1]};
    launchGrid(stream(), first);
    const SqueezeWeightGradient second{gate,
                                       saved().hidden(0),
                                       samples_,
                                       channels_,
                                       reduced_,
                                       channels_,
                                       saved().size(),
                                       buffers_.paramGrad[2],
                                       buffers_.paramGrad[3]};
    launchGrid(stream(), second);
  }

 private:
  cudaStream_t stream() const { return cudaDevice(*context_.device).stream(); }
  SqueezeSaved saved() const { return {buffers_.saved, channels_, reduced_}; }
  void sums(const float* a, const float* b, float* to, int64_t stride, float scale) const {
    const ChannelSums kernel{a, b, to, samples_, pixels_, channels_, stride, scale};
    launchGrid(stream(), kernel);
  }

  const int64_t samples_, pixels_, channels_, reduced_;
};

}  // namespace

std::unique_ptr<Op> makeCudaSqueezeExcite(OpContext context) {
  return std::make_unique<CudaSqueezeExcite>(std::move(context));
}

}  // namespace ddad
