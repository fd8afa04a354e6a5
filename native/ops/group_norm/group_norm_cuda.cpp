// Group norm on the GPU: two sweeps over the input forward, two backward; see ops/group_norm/group_norm.cpp.
#include <algorithm>

#include "device/cuda/device_cuda.h"
#include "ops/group_norm/group_norm.h"
#include "ops/group_norm/group_norm_kernels_cuda.h"

namespace ddad {
namespace {

constexpr int64_t kBlocksAProcessor = 16, kLeastRows = 4 * NormTile::kLanes, kMostChunks = 256;

class CudaGroupNorm : public Op {
 public:
  explicit CudaGroupNorm(OpContext context) : Op(std::move(context)) {
    const auto fail = [&](const std::string& what) { throw Error("ERR_CONFIG", context_.record->name + ": " + what); };
    const int64_t channels = context_.out.c, pixels = context_.out.h * context_.out.w, samples = context_.out.n;
    if (channels / attr().groups > kMostPerGroup)
      fail("expected at most " + std::to_string(kMostPerGroup) + " channels a group, got " +
           std::to_string(channels / attr().groups));
    const CudaDevice& device = cudaDevice(*context_.device);
    const int64_t across = blocksOf(channels, int64_t{NormTile::kColumns} * kRun);
    const int64_t wanted = std::max<int64_t>(1, kBlocksAProcessor * device.multiprocessors() / (across * samples));
    const int64_t chunkRows = std::max(kLeastRows, blocksOf(pixels, std::min(wanted, kMostChunks)));
    tile_ = {channels, pixels, blocksOf(pixels, chunkRows), chunkRows};
    if (samples * tile_.chunks > 65535)
      fail("expected at most " + std::to_string(65535 / tile_.chunks) + " samples, got " + std::to_string(samples));
    plane_ = samples * channels;
  }

  bool backwardReadsInput(int) const override { return true; }
  int64_t savedFloats() const override { return 5 * plane_; }
  int64_t forwardWorkspaceFloats() const override { return 2 * plane_ * tile_.chunks; }
  int64_t backwardWorkspaceFloats() const override { return 2 * plane_ * tile_.chunks + 5 * plane_; }

  void forward() override {
    NormCall call = common(buffers_.workspace);
    call.out = buffers_.out;
    launchNormForward(cudaDevice(*context_.device).stream(), call);
  }

  void backward() override {
    NormCall call = common(buffers_.backwardWorkspace);
    call.dy = buffers_.outGrad;
    for (int s = 0; s < attr().sources; ++s) {
      const auto index = static_cast<size_t>(s);
      call.dx[s] = context_.inputGradient[index] ? buffers_.inGrad[index] : nullptr;
      call.accumulate[s] = buffers_.accumulate[index];
    }
    float* at = buffers_.backwardWorkspace + 2 * plane_ * tile_.chunks;
    for (float** to : {&call.total1, &call.total2, &call.p, &call.q, &call.r}) {
      *to = at;
      at += plane_;
    }
    if (context_.paramGradient) {
      call.gammaGradient = buffers_.paramGrad[0];
      call.betaGradient = buffers_.paramGrad[1];
    }
    const auto e = static_cast<size_t>(attr().sources);
    if (attr().embedding != EmbeddingMode::kNone && context_.inputGradient[e]) {
      call.embeddingGradient = buffers_.inGrad[e];
      call.accumulateEmbedding = buffers_.accumulate[e];
    }
    launchNormBackward(cudaDevice(*context_.device).stream(), call);
  }

 private:
  NormCall common(float* sums) const {
    NormCall call{};
    const int64_t channels = context_.out.c;
    const float* embedding =
        attr().embedding == EmbeddingMode::kNone ? nullptr : buffers_.in[static_cast<size_t>(attr().sources)];
    call.k = {context_.out.n,
              channels,
              channels / attr().groups,
              tile_.pixels,
              tile_.chunks,
              buffers_.param[0],
              buffers_.param[1],
              attr().embedding == EmbeddingMode::kScaleShift ? embedding : nullptr,
              attr().embedding == EmbeddingMode::kAdd ? embedding : nullptr,
              attr().eps};
    call.tile = tile_;
    for (int s = 0; s < attr().sources; ++s) {
      call.x[s] = buffers_.in[static_cast<size_t>(s)];
      call.channels[s] = context_.in[static_cast<size_t>(s)].c;
    }
    call.half = context_.inHalf[0];
    call.outHalf = context_.outHalf;
    call.silu = attr().activation == Activation::kSilu;
    float* at = buffers_.saved;
    for (float** to : {&call.a, &call.b, &call.h, &call.mu, &call.hat}) {
      *to = at;
      at += plane_;
    }
    call.s1 = sums;
    call.s2 = sums + plane_ * tile_.chunks;
    return call;
  }

  NormTile tile_{};
  int64_t plane_ = 0;
};

}  // namespace

std::unique_ptr<Op> makeCudaGroupNorm(OpContext context) { return std::make_unique<CudaGroupNorm>(std::move(context)); }

}  // namespace ddad
