// Convolutions of one source through cuDNN. Tensor cores want channels in eights: bf16 operands with other counts (and
// float32 ones, which the inputs and outputs of a network are) are brought into shape in scratch memory first.
#include <algorithm>
#include <vector>

#include "device/cuda/measure_cuda.h"
#include "ops/conv/cuda/conv_cuda.h"

namespace ddad {
namespace {

constexpr double kHalfTimeRatio = 0.9;  // of the time of a weight gradient in float32

class SpatialConv : public CudaConv {
 public:
  explicit SpatialConv(OpContext context) : CudaConv(std::move(context)) {
    const Shape in = source(0), out = context_.out;
    const auto padded = [&](int64_t channels) { return half_ ? (channels + 7) / 8 * 8 : channels; };
    spec_ = {in.n,          in.h,          in.w,          padded(in.c), out.h,          out.w,
             padded(out.c), attr().kernel, attr().stride, attr().pad,   dnnType(half_), math_};
    spec_.layoutOnly = context_.layoutOnly;
    padsIn_ = spec_.c != in.c;
    padsOut_ = spec_.outC != out.c;
    stagesSource_ = half_ && (!sourceHalf(0) || padsIn_);
    stagesGradient_ = half_ && (!context_.outHalf || padsOut_);
    planForward();
    if (context_.training) planBackward();
  }

  const char* kernelName() const override { return "cudnn"; }

 protected:
  void convolve(void* target) override {
    const void* x = stagesSource_ ? stageSource(forwardScratch(sourceAt_)) : buffers_.in[0];
    const void* w = stagesWeight() ? stageWeight(forwardScratch(weightAt_)) : weight();
    float* const scratch = forwardScratch(forwardAt_);
    std::vector<DnnOperand> operands = {{kConvSource, x}, {kConvWeight, w}};
    if (fused_) {
      operands.push_back({kConvOut, target});
      if (epilogue_.bias) operands.push_back({kConvBias, buffers_.param[1]});
      if (epilogue_.residual) operands.push_back({kConvResidual, residual()});
      return fused_->run(device_, operands, scratch);
    }
    void* const sums = sumsInPlace_ ? target : forwardScratch(sumsAt_);
    operands.push_back({kConvOut, sums});
    plain_->run(device_, operands, scratch);
    if (!sumsInPlace_ || epilogueWorks())
      runEpilogue(sums, target, attr().bias ? buffers_.param[1] : nullptr, attr().residual ? residual() : nullptr);
  }

  void differentiate(const void* outGradient) override {
    const Shape in = source(0), out = context_.out;
    if (stagesGradient_ && (dataGradient_ || weightGradient_)) {
      float* const to = backwardScratch(gradientAt_);
      convertChannelsCuda(device_, outGradient, context_.outHalf, out.c, to, true, spec_.outC, out.pixels(), false);
      outGradient = to;
    }
    float* const scratch = backwardScratch(backwardAt_);
    if (dataGradient_) {
      const void* w = stagesWeight() ? stageWeight(backwardScratch(backwardWeightAt_)) : weight();
      const bool direct = !stagesSource_ && !buffers_.accumulate[0];
      void* const to = direct ? buffers_.inGrad[0] : backwardScratch(sourceGradientAt_);
      dataGradient_->run(device_, {{kConvOutGradient, outGradient}, {kConvWeight, w}, {kConvSourceGradient, to}},
                         scratch);
      if (!direct)
        convertChannelsCuda(device_, to, half_, spec_.c, buffers_.inGrad[0], sourceHalf(0), in.c, in.pixels(),
                            buffers_.accumulate[0]);
    }
    if (!weightGradient_) return;
    const void* x = stagesSource_ ? stageSource(backwardScratch(backwardSourceAt_)) : buffers_.in[0];
    void* const to = convertsWeightGradient() ? backwardScratch(weightGradientAt_) : buffers_.paramGrad[0];
    weightGradient_->run(device_, {{kConvOutGradient, outGradient}, {kConvSource, x}, {kConvWeightGradient, to}},
                         scratch);
    if (convertsWeightGradient())
      convertChannelsCuda(device_, to, weightGradientType_ == DnnType::kBf16, spec_.c, buffers_.paramGrad[0], false,
                          in.c, out.c * taps(), false);
  }

 private:
  int64_t taps() const { return int64_t{spec_.kernel} * spec_.kernel; }
  int64_t sourceFloats() const { return floatsOf(source(0).pixels() * spec_.c, half_); }
  int64_t weightFloats() const { return floatsOf(spec_.weights(), half_); }
  bool stagesWeight() const { return padsIn_ || padsOut_; }
  const void* weight() const { return half_ ? buffers_.paramHalf[0] : static_cast<const void*>(buffers_.param[0]); }
  bool convertsWeightGradient() const { return weightGradientType_ == DnnType::kBf16 || padsIn_ || padsOut_; }

  const void* stageSource(float* to) const {
    convertChannelsCuda(device_, buffers_.in[0], sourceHalf(0), source(0).c, to, half_, spec_.c, source(0).pixels(),
                        false);
    return to;
  }

  /// Only bf16 weights are: zeros for the input channels and, behind them all, the output channels that are not there.
  const void* stageWeight(float* to) const {
    const int64_t rows = context_.out.c * taps(), values = rows * spec_.c;
    convertChannelsCuda(device_, weight(), true, source(0).c, to, true, spec_.c, rows, false);
    if (padsOut_)
      checkCuda(cudaMemsetAsync(reinterpret_cast<char*>(to) + 2 * values, 0,
                                static_cast<size_t>(2 * (spec_.weights() - values)), device_.stream()),
                "clearing the padding of a weight");
    return to;
  }

  bool epilogueWorks() const {
    return epilogue_.bias || epilogue_.residual || epilogue_.activation != Activation::kNone;
  }

  /// out = f(sums + bias + residual); `sums` may be `out`.
  void runEpilogue(const void* sums, void* out, const float* bias, const void* added) const {
    convEpilogueCuda(device_, sums, plainType_ == DnnType::kBf16, spec_.outC, bias, added,
                     epilogue_.residual && epilogue_.residualType == DnnType::kBf16, epilogue_.activation, out,
                     context_.outHalf, context_.out.c, context_.out.pixels());
  }

  void planForward() {
    epilogue_ = {dnnType(context_.outHalf), attr().bias, attr().residual, DnnType::kFloat32,
                 separate_ ? Activation::kNone : attr().activation};
    if (attr().residual) epilogue_.residualType = dnnType(residualHalf());
    std::string why;
    if (!padsOut_) fused_ = convForward(device_, spec_, epilogue_, &why);
    plainType_ = spec_.type;
    // few channels go out of the network as float32: not by way of bf16, where cuDNN can help it
    if (padsOut_ && !context_.outHalf) {
      plainType_ = DnnType::kFloat32;
      plain_ = convForward(device_, spec_, {plainType_}, &why);
      if (!plain_) plainType_ = spec_.type;
    }
    const bool alike = !epilogueWorks() && epilogue_.out == plainType_;  // then both are the same graph
    if (!plain_ && !(fused_ && alike)) plain_ = convForward(device_, spec_, {plainType_}, &why);
    if (!fused_ && !plain_) fail("forward pass", why);
    sumsInPlace_ = !padsOut_ && plainType_ == epilogue_.out;
    if (fused_ && plain_) (fusionPays() ? plain_ : fused_).reset();
    forwardAt_ = forwardScratch_.take((fused_ ? fused_ : plain_)->workspaceFloats());
    if (stagesSource_) sourceAt_ = forwardScratch_.take(sourceFloats());
    if (stagesWeight()) weightAt_ = forwardScratch_.take(weightFloats());
    if (!fused_ && !sumsInPlace_) sumsAt_ = forwardScratch_.take(sumFloats());
  }
  int64_t sumFloats() const { return floatsOf(spec_.outPixels() * spec_.outC, plainType_ == DnnType::kBf16); }

  /// Whether the fused graph is faster than the plain one and a sweep over its output: measured, and kept.
  bool fusionPays() const {
    Choices* const choices = device_.recording() ? nullptr : device_.choices();
    // cuDNN's only engine for some activations is a slow one
    if (!choices || fused_->microseconds() == 0 || plain_->microseconds() == 0)
      return epilogue_.activation == Activation::kNone;
    if (fused_->microseconds() <= plain_->microseconds()) return true;
    const std::string key = "fusion of " + fused_->key();
    auto chosen = choices->find(key);
    if (!chosen) {
      const auto piece = [](int64_t floats) { return (floats * 4 + 255) / 256 * 256; };
      const int64_t out = piece(context_.out.size()), sums = piece(sumFloats());
      const TrialMemory memory(device_, 2 * out + sums + piece(context_.out.c));
      if (!memory.data()) return true;
      char* const at = memory.data();
      const float sweep = measure(device_, [&] {
        const void* const bias = at + sums + 2 * out;
        runEpilogue(at, at + sums, epilogue_.bias ? static_cast<const float*>(bias) : nullptr,
                    epilogue_.residual ? at + sums + out : nullptr);
        return true;
      });
      const double apart = static_cast<double>(plain_->microseconds()) + 1000.0 * static_cast<double>(sweep);
      chosen = choices->keep(key, apart < static_cast<double>(fused_->microseconds()) ? "apart" : "fused");
    }
    return chosen != "apart";
  }

  void planBackward() {
    const Shape in = source(0);
    std::string why;
    int64_t scratch = 0;
    if (sourceGradient(0)) {
      dataGradient_ = convDataGradient(device_, spec_, &why);
      if (!dataGradient_) fail("data gradient", why);
      scratch = std::max(scratch, dataGradient_->workspaceFloats());
      if (stagesWeight()) backwardWeightAt_ = backwardScratch_.take(weightFloats());
      // whether it is added to what is there already is known only later
      sourceGradientAt_ = backwardScratch_.take(floatsOf(in.pixels() * spec_.c, half_));
    }
    if (context_.paramGradient) {
      chooseWeightGradient();
      scratch = std::max(scratch, weightGradient_->workspaceFloats());
      if (stagesSource_) backwardSourceAt_ = backwardScratch_.take(sourceFloats());
      if (convertsWeightGradient())
        weightGradientAt_ = backwardScratch_.take(floatsOf(spec_.weights(), weightGradientType_ == DnnType::kBf16));
    }
    backwardAt_ = backwardScratch_.take(scratch);
    if (stagesGradient_) gradientAt_ = backwardScratch_.take(floatsOf(spec_.outPixels() * spec_.outC, true));
  }

  /// In float32 where that costs little; cuDNN has more, and faster, engines that round the sums to bf16.
  void chooseWeightGradient() {
    std::string why;
    weightGradientType_ = DnnType::kFloat32;
    weightGradient_ = convWeightGradient(device_, spec_, DnnType::kFloat32, &why);
    if (half_) {
      auto rounded = convWeightGradient(device_, spec_, DnnType::kBf16, &why);
      const auto time = [](const auto& graph) { return static_cast<double>(graph->microseconds()); };
      const bool measured = weightGradient_ && rounded && time(weightGradient_) > 0 && time(rounded) > 0;
      if (rounded && (!weightGradient_ || !measured || time(rounded) < kHalfTimeRatio * time(weightGradient_))) {
        weightGradient_ = std::move(rounded);
        weightGradientType_ = DnnType::kBf16;
      }
    }
    if (!weightGradient_) fail("weight gradient", why);
  }

  ConvSpec spec_{};
  ConvEpilogue epilogue_{};
  bool padsIn_ = false, padsOut_ = false, stagesSource_ = false, stagesGradient_ = false;
  bool sumsInPlace_ = false;  // the plain graph writes to the output itself
  DnnType plainType_ = DnnType::kFloat32, weightGradientType_ = DnnType::kFloat32;
  std::shared_ptr<const DnnGraph> fused_, plain_;  // one of them
  std::shared_ptr<const DnnGraph> dataGradient_, weightGradient_;
  int64_t forwardAt_ = 0, sourceAt_ = 0, weightAt_ = 0, sumsAt_ = 0;
  int64_t backwardAt_ = 0, backwardWeightAt_ = 0, backwardSourceAt_ = 0, gradientAt_ = 0, sourceGradientAt_ = 0,
          weightGradientAt_ = 0;
};

}  // namespace

std::unique_ptr<Op> makeCudaSpatialConv(OpContext context) { return std::make_unique<SpatialConv>(std::move(context)); }

}  // namespace ddad
