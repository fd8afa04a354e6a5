// The ops that cuDNN and cuBLASLt do on a GPU (convolutions, linear layers, attention) are those of the CPU here, as
// work of the device's stream. They keep what the plan gives them in the device's layout and types: weights as [out,
// kernel, kernel, in], activations in bf16 where the plan says so. Weights and sums stay float32.
#include <algorithm>
#include <memory>
#include <vector>

#include "base/bf16.h"
#include "device/cpu_device.h"
#include "device/cuda/device_cuda.h"
#include "ops/attention/attention.h"
#include "ops/conv/conv.h"
#include "ops/depthwise/depthwise.h"
#include "ops/embedding/embedding.h"
#include "ops/group_norm/group_norm.h"
#include "ops/linear/linear.h"
#include "ops/resample/resample.h"
#include "ops/squeeze_excite/squeeze_excite.h"

namespace ddad {
namespace {

/// The processor, for ops that run for a GPU; there until the end.
const Device& processor(int threads) {
  static auto* const devices = new std::vector<std::shared_ptr<Device>>;
  for (const auto& device : *devices)
    if (device->threads() == threads) return *device;
  return *devices->emplace_back(std::make_shared<CpuDevice>(threads));
}

/// The same op for the CPU: everything in float32.
OpContext hostContext(OpContext context) {
  context.device = &processor(context.device->threads());
  std::fill(context.inHalf.begin(), context.inHalf.end(), false);
  context.outHalf = false;
  return context;
}

/// An array of the device that the op sees as floats in its own memory, where `type` is bf16 or the layout another.
class Converted {
 public:
  Converted() = default;
  Converted(void* on, int64_t count, bool half, int64_t columns = 0, int64_t taps = 0)
      : on_(on), count_(count), columns_(columns), taps_(taps), half_(half) {
    // untouched until it is used, as most of a large batch's never is
    if (on && (half || taps > 1)) own_ = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(count));
  }
  float* data() { return own_ ? own_.get() : static_cast<float*>(on_); }
  void load() {
    if (!own_) return;
    if (half_)
      for (int64_t i = 0; i < count_; ++i) own(i) = toFloat(static_cast<const Bf16*>(on_)[i]);
    else
      for (int64_t i = 0; i < count_; ++i) own(i) = static_cast<const float*>(on_)[swapped(i)];
  }
  void store() {
    if (!own_) return;
    if (half_)
      for (int64_t i = 0; i < count_; ++i) static_cast<Bf16*>(on_)[i] = fromFloat<Bf16>(own(i));
    else
      for (int64_t i = 0; i < count_; ++i) static_cast<float*>(on_)[swapped(i)] = own(i);
  }

 private:
  float& own(int64_t i) { return own_[i]; }
  /// Where element i of [rows, columns, taps] lies in [rows, taps, columns].
  int64_t swapped(int64_t i) const {
    const int64_t row = i / (columns_ * taps_), inRow = i % (columns_ * taps_);
    return row * columns_ * taps_ + inRow % taps_ * columns_ + inRow / taps_;
  }

  void* on_ = nullptr;
  int64_t count_ = 0, columns_ = 0, taps_ = 0;
  bool half_ = false;
  std::unique_ptr<float[]> own_;
};

class HostOp : public Op {
 public:
  HostOp(OpContext context, std::unique_ptr<Op> (*make)(OpContext))
      : Op(std::move(context)), run_(std::make_shared<Run>()) {
    run_->op = make(hostContext(context_));
  }

  int64_t savedFloats() const override { return run_->op->savedFloats(); }
  int64_t forwardWorkspaceFloats() const override { return run_->op->forwardWorkspaceFloats(); }
  int64_t backwardWorkspaceFloats() const override { return run_->op->backwardWorkspaceFloats(); }
  PackedLayout packedLayout() const override { return run_->op->packedLayout(); }
  int64_t packedFloats() const override { return run_->op->packedFloats(); }
  bool backwardReadsInput(int i) const override { return run_->op->backwardReadsInput(i); }
  bool backwardReadsOutput() const override { return run_->op->backwardReadsOutput(); }
  bool gradientPassesThrough(int i) const override { return run_->op->gradientPassesThrough(i); }
  double flops() const override { return run_->op->flops(); }
  const char* kernelName() const override { return run_->op->kernelName(); }

  void bind(const OpBuffers& buffers) override {
    Op::bind(buffers);
    Run& run = *run_;
    OpBuffers own = buffers;
    run.in.clear();
    run.inGrad.clear();
    run.param.clear();
    run.paramGrad.clear();
    run.accumulate = buffers.accumulate;
    run.out = Converted(buffers.out, context_.out.size(), context_.outHalf);
    run.outGrad = Converted(const_cast<float*>(buffers.outGrad), context_.out.size(), context_.outHalf);
    for (size_t i = 0; i < buffers.in.size(); ++i) {
      const bool half = !context_.inHalf.empty() && context_.inHalf[i];
      run.in.emplace_back(const_cast<float*>(buffers.in[i]), context_.in[i].size(), half);
      const bool gradient = i < buffers.inGrad.size() && buffers.inGrad[i] != buffers.outGrad;
      run.inGrad.emplace_back(gradient ? buffers.inGrad[i] : nullptr, context_.in[i].size(), half);
    }
    for (size_t i = 0; i < buffers.param.size(); ++i) {
      run.param.push_back(weights(const_cast<float*>(buffers.param[i]), i));
      run.paramGrad.push_back(weights(i < buffers.paramGrad.size() ? buffers.paramGrad[i] : nullptr, i));
    }
    own.out = run.out.data();
    own.outGrad = run.outGrad.data();
    for (size_t i = 0; i < buffers.in.size(); ++i) {
      own.in[i] = run.in[i].data();
      if (i < own.inGrad.size())
        own.inGrad[i] =
            buffers.inGrad[i] && buffers.inGrad[i] == buffers.outGrad ? run.outGrad.data() : run.inGrad[i].data();
    }
    for (size_t i = 0; i < buffers.param.size(); ++i) {
      own.param[i] = run.param[i].data();
      if (i < own.paramGrad.size()) own.paramGrad[i] = run.paramGrad[i].data();
    }
    run.op->bind(own);
  }
  void prepare() override {
    enqueue([](Run& run) {
      for (Converted& param : run.param) param.load();
      run.op->prepare();
    });
  }
  void forward() override {
    enqueue([](Run& run) {
      for (Converted& in : run.in) in.load();
      run.op->forward();
      run.out.store();
    });
  }
  void backward() override {
    enqueue([](Run& run) {
      for (size_t i = 0; i < run.in.size(); ++i)
        if (run.op->backwardReadsInput(static_cast<int>(i))) run.in[i].load();
      if (run.op->backwardReadsOutput()) run.out.load();
      run.outGrad.load();
      for (size_t i = 0; i < run.inGrad.size(); ++i)
        if (i < run.accumulate.size() && run.accumulate[i]) run.inGrad[i].load();
      run.op->backward();
      for (Converted& gradient : run.inGrad) gradient.store();
      for (Converted& gradient : run.paramGrad) gradient.store();
    });
  }

 private:
  /// What enqueued work needs, which may outlive the op.
  struct Run {
    std::unique_ptr<Op> op;
    std::vector<Converted> in, inGrad, param, paramGrad;
    std::vector<bool> accumulate;
    Converted out, outGrad;
  };

  void enqueue(void (*work)(Run&)) const {
    emulated::enqueue(cudaDevice(*context_.device).stream(), [run = run_, work] { work(*run); });
  }
  /// Parameter i; a convolution's first is its weights, whose channels are last on the device.
  Converted weights(float* on, size_t i) const {
    const int64_t taps = int64_t{attr().kernel} * attr().kernel;
    if (context_.record->kind != OpKind::kConv || i > 0 || taps == 1) return Converted(on, 0, false);
    int64_t columns = 0;
    for (int s = 0; s < attr().sources; ++s) columns += context_.in[static_cast<size_t>(s)].c;
    return Converted(on, context_.out.c * columns * taps, false, columns, taps);
  }

  std::shared_ptr<Run> run_;
};

}  // namespace

std::unique_ptr<Op> makeCudaConv(OpContext context) {
  return std::make_unique<HostOp>(std::move(context), [](OpContext host) { return makeConv(host); });
}

std::unique_ptr<Op> makeCudaLinear(OpContext context) {
  return std::make_unique<HostOp>(std::move(context), makeLinear);
}

std::unique_ptr<Op> makeCudaAttention(OpContext context) {
  return std::make_unique<HostOp>(std::move(context), makeAttention);
}

}  // namespace ddad
