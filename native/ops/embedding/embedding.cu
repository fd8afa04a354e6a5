// The embeddings of time steps and labels on the GPU; see ops/embedding/embedding.cpp.
#include "device/cuda/device_cuda.h"
#include "device/cuda/grid_cuda.cuh"
#include "ops/elementwise/kernels_cuda.h"
#include "ops/embedding/embedding.h"
#include "ops/embedding/embedding_grid.h"

namespace ddad {
namespace {

class CudaTimestepEmbedding : public Op {
 public:
  using Op::Op;
  void forward() override {
    const TimestepValues kernel{buffers_.in[0], buffers_.out, context_.out.n, context_.out.c};
    launchGrid(cudaDevice(*context_.device).stream(), kernel);
  }
  void backward() override {}
};

class CudaLabelEmbedding : public Op {
 public:
  using Op::Op;
  bool backwardReadsInput(int i) const override { return i == 1; }
  bool gradientPassesThrough(int i) const override { return i == 0; }
  void forward() override {
    const LabelValues kernel{buffers_.in[0], buffers_.in[1], buffers_.param[0],
                             buffers_.out,   context_.out.n, context_.out.c};
    launchGrid(cudaDevice(*context_.device).stream(), kernel);
  }
  void backward() override {
    const CudaDevice& device = cudaDevice(*context_.device);
    if (context_.paramGradient) {
      const LabelTableGradient kernel{buffers_.in[1], buffers_.outGrad, buffers_.paramGrad[0],
                                      context_.out.n, context_.out.c,   attr().classes};
      launchGrid(device.stream(), kernel);
    }
    if (context_.inputGradient[0] && buffers_.inGrad[0] != buffers_.outGrad)
      convertChannelsCuda(device, buffers_.outGrad, false, context_.out.c, buffers_.inGrad[0], false, context_.out.c,
                          context_.out.n, buffers_.accumulate[0]);
  }
};

}  // namespace

std::unique_ptr<Op> makeCudaTimestepEmbedding(OpContext context) {
  return std::make_unique<CudaTimestepEmbedding>(std::move(context));
}
std::unique_ptr<Op> makeCudaLabelEmbedding(OpContext context) {
  return std::make_unique<CudaLabelEmbedding>(std::move(context));
}

}  // namespace ddad
