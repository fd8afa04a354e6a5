// Which convolution kernel is fastest here: measured when a kind of shape is first compiled, then read from a file.
#include "ops/conv/conv_autotune.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>

#include "base/aligned_buffer.h"
#include "base/cancel.h"
#include "ops/conv/winograd_conv.h"

namespace ddad {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kWorthChanging = 0.9;    // of the usual kernel's time
constexpr double kTrialFlops = 3e8;       // a trial is cut to about this much work
constexpr int64_t kLargestPlane = 65536;  // pixels; larger planes behave alike
constexpr int kTrials = 5;
/// Operations a thread beyond which the library's kernel is not taken: nothing stops it before its end, half a second.
constexpr double kMostFlops = 4e10;

/// One convolution with memory of its own.
class Trial {
 public:
  Trial(ConvKernel kernel, const OpContext& context) : op_(makeConvWith(kernel, context)) {
    if (!op_) return;
    OpBuffers b;
    for (size_t i = 0; i < context.in.size(); ++i) {
      b.in.push_back(fresh(context.in[i].size()));
      b.inGrad.push_back(context.inputGradient[i] ? fresh(context.in[i].size()) : nullptr);
      b.accumulate.push_back(false);
    }
    b.out = fresh(context.out.size());
    b.outGrad = context.training ? fresh(context.out.size()) : nullptr;
    const OpAttributes& attr = context.record->attr;
    int64_t inChannels = 0;
    for (int s = 0; s < attr.sources; ++s) inChannels += context.in[static_cast<size_t>(s)].c;
    for (const int64_t size : {context.out.c * inChannels * attr.kernel * attr.kernel, context.out.c}) {
      b.param.push_back(fresh(size));
      b.paramGrad.push_back(context.paramGradient ? fresh(size) : nullptr);
    }
    b.saved = fresh(op_->savedFloats());
    b.workspace = fresh(op_->forwardWorkspaceFloats());
    b.backwardWorkspace = fresh(op_->backwardWorkspaceFloats());
    b.packed = fresh(op_->packedFloats());
    op_->bind(b);
    op_->prepare();
    training_ = context.training;
    run();
  }

  bool possible() const { return op_ != nullptr; }
  double best() const { return best_; }

  /// The shortest of all runs counts: other work on the machine only ever adds.
  void time() {
    const auto start = Clock::now();
    run();
    best_ = std::min(best_, std::chrono::duration<double>(Clock::now() - start).count());
  }

 private:
  void run() {
    checkCancelled();
    op_->forward();
    if (training_) op_->backward();
  }
  float* fresh(int64_t floats) {
    memory_.emplace_back(std::max<int64_t>(floats, 16));
    std::fill_n(memory_.back().data(), memory_.back().size(), 0.1f);
    return memory_.back().data();
  }

  std::vector<AlignedBuffer> memory_;
  std::unique_ptr<Op> op_;
  double best_ = std::numeric_limits<double>::infinity();
  bool training_ = false;
};

/// The same convolution on less of the image.
OpContext trialContext(const OpContext& context) {
  OpContext trial = context;
  const OpAttributes& attr = context.record->attr;
  double perRow = 2.0 * static_cast<double>(context.out.w * context.out.c * attr.kernel * attr.kernel);
  double channels = 0;
  for (int s = 0; s < attr.sources; ++s) channels += static_cast<double>(context.in[static_cast<size_t>(s)].c);
  perRow *= channels;
  const auto rows = std::max<int64_t>(16, static_cast<int64_t>(kTrialFlops / perRow));
  const int64_t height = std::min(context.out.h, rows);
  const int64_t samples = std::clamp<int64_t>(rows / height, 1, context.out.n);
  trial.out.n = samples;
  trial.out.h = height;
  for (Shape& in : trial.in) {
    in.n = samples;
    if (height < context.out.h) in.h = height * in.h / context.out.h;
  }
  return trial;
}

double flopsOf(const OpContext& context) {
  const OpAttributes& attr = context.record->attr;
  double channels = 0;
  for (int s = 0; s < attr.sources; ++s) channels += static_cast<double>(context.in[static_cast<size_t>(s)].c);
  return 2.0 * static_cast<double>(context.out.size()) * static_cast<double>(attr.kernel * attr.kernel) * channels;
}

std::string keyOf(const OpContext& context) {
  const OpAttributes& attr = context.record->attr;
  std::string key = "conv" + std::to_string(attr.kernel) + "x" + std::to_string(attr.kernel);
  if (attr.stride > 1) key += " stride " + std::to_string(attr.stride);
  if (attr.pad != attr.kernel / 2) key += " pad " + std::to_string(attr.pad);
  key += " ";
  for (int s = 0; s < attr.sources; ++s) key += (s ? "+" : "") + std::to_string(context.in[static_cast<size_t>(s)].c);
  key += "->" + std::to_string(context.out.c);
  // Powers of two are enough: images of every size must not each be measured.
  int64_t plane = 16;
  while (plane < kLargestPlane && plane < context.out.h * context.out.w) plane *= 2;
  key += " of " + std::to_string(plane) + " pixels";
  if (attr.residual) key += ", residual";
  if (attr.activation != Activation::kNone) key += attr.activation == Activation::kSilu ? ", swish" : ", activation";
  if (context.training) key += context.inputGradient[0] ? ", training" : ", training without data";
  return key;
}

}  // namespace

ConvKernel tunedConvKernel(const OpContext& context, ConvKernel usual, Choices& choices) {
  // oneDNN's backward may sum in an order that depends on the number of threads, and it takes one source only.
  std::vector<ConvKernel> kernels = {ConvKernel::kDirect};
  if (winogradFits(context)) kernels.push_back(ConvKernel::kWinograd);
  if (!context.training && context.record->attr.sources == 1) kernels.push_back(ConvKernel::kOnednn);
  if (!choices.usable() || kernels.size() == 1) return usual;
  const std::string key = keyOf(context);
  std::optional<std::string> chosen = choices.find(key);
  if (!chosen && !choices.keeps()) return usual;
  if (!chosen) {
    const OpContext reduced = trialContext(context);
    std::vector<std::pair<ConvKernel, Trial>> trials;
    for (const ConvKernel kernel : kernels) {
      Trial trial(kernel, reduced);
      if (trial.possible()) trials.emplace_back(kernel, std::move(trial));
    }
    double usualTime = 0;
    for (int round = 0; round < kTrials; ++round)
      for (auto& [kernel, trial] : trials) trial.time();
    for (const auto& [kernel, trial] : trials)
      if (kernel == usual) usualTime = trial.best();
    ConvKernel fastest = usual;
    double best = usualTime * kWorthChanging;
    for (const auto& [kernel, trial] : trials)
      if (trial.best() < best) {
        fastest = kernel;
        best = trial.best();
      }
    chosen = choices.keep(key, convKernelName(fastest));
  }
  if (chosen == convKernelName(ConvKernel::kOnednn) && flopsOf(context) > kMostFlops * context.device->threads())
    return usual;
  for (const ConvKernel kernel : {ConvKernel::kDirect, ConvKernel::kWinograd, ConvKernel::kOnednn})
    if (chosen == convKernelName(kernel)) return kernel;
  return usual;
}

}  // namespace ddad
