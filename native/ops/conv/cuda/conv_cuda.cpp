#include "ops/conv/cuda/conv_cuda.h"

#include "ops/conv/conv.h"

namespace ddad {

CudaConv::CudaConv(OpContext context) : Op(std::move(context)), device_(cudaDevice(*context_.device)) {
  half_ = context_.outHalf;
  for (int s = 0; s < attr().sources; ++s) {
    half_ = half_ || sourceHalf(s);
    inChannels_ += source(s).c;
  }
  math_ = half_ ? DnnMath::kTensorCores : floatMath(device_);
  separate_ = context_.training && attr().activation != Activation::kNone;
  keepsArgument_ = separate_ && attr().activation == Activation::kSilu;  // that of relu6 follows from its value
  if (separate_) activationGradientAt_ = backwardScratch_.take(floatsOf(context_.out.size(), context_.outHalf));
}

bool CudaConv::anyGradient() const {
  for (int s = 0; s < attr().sources; ++s)
    if (sourceGradient(s)) return true;
  return false;
}

double CudaConv::flops() const {
  return 2.0 * static_cast<double>(context_.out.size()) *
         static_cast<double>(inChannels_ * attr().kernel * attr().kernel);
}

void CudaConv::fail(const std::string& pass, const std::string& why) const {
  const Shape in = source(0);
  throw Error("ERR_DEVICE", context_.record->name + ": cuDNN has no engine for the " + pass + " of a convolution of " +
                                std::to_string(in.n) + "x" + std::to_string(in.h) + "x" + std::to_string(in.w) + "x" +
                                std::to_string(inChannels_) + " to " + std::to_string(context_.out.c) +
                                " channels with a kernel of " + std::to_string(attr().kernel) + ": " + why);
}

void CudaConv::forward() {
  convolve(keepsArgument_ ? buffers_.saved : buffers_.out);
  if (separate_)
    activateCuda(device_, attr().activation, keepsArgument_ ? buffers_.saved : buffers_.out, buffers_.out,
                 context_.outHalf, context_.out.size());
}

void CudaConv::backward() {
  const void* gradient = buffers_.outGrad;
  if (separate_) {
    float* const to = backwardScratch(activationGradientAt_);
    activationGradientCuda(device_, attr().activation, keepsArgument_ ? buffers_.saved : buffers_.out, buffers_.outGrad,
                           to, context_.outHalf, context_.out.size());
    gradient = to;
  }
  if (context_.paramGradient && attr().bias)
    columnSumsCuda(device_, gradient, context_.outHalf, context_.out.pixels(), context_.out.c, buffers_.paramGrad[1]);
  differentiate(gradient);
  const auto r = static_cast<size_t>(attr().sources);
  if (!attr().residual || !context_.inputGradient[r] || buffers_.inGrad[r] == buffers_.outGrad) return;
  convertChannelsCuda(device_, gradient, context_.outHalf, context_.out.c, buffers_.inGrad[r], residualHalf(),
                      context_.out.c, context_.out.pixels(), buffers_.accumulate[r]);
}

std::unique_ptr<Op> makeCudaConv(OpContext context) {
  return isPointwise(context) ? makeCudaPointwiseConv(std::move(context)) : makeCudaSpatialConv(std::move(context));
}

}  // namespace ddad
