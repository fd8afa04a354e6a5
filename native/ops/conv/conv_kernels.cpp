#include "ops/conv/conv_kernels.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "ops/conv/direct_conv.h"
#include "ops/conv/onednn_conv.h"
#include "ops/conv/winograd_conv.h"

namespace ddad {
namespace {

constexpr const char* kKernelNames[kConvKernels] = {"auto", "direct", "winograd", "onednn"};

std::atomic<int>& chosenKernel() {
  static std::atomic<int> kernel = [] {
    const char* name = std::getenv("DDAD_CONV");
    const std::string value = name ? name : "auto";
    for (int i = 0; i < kConvKernels; ++i)
      if (value == kKernelNames[i] || value.empty()) return i;
    throw Error("ERR_OPTION", "DDAD_CONV: expected auto, direct, winograd or onednn, got " + value);
  }();
  return kernel;
}

}  // namespace

const char* convKernelName(ConvKernel kernel) { return kKernelNames[static_cast<int>(kernel)]; }
void setConvKernel(ConvKernel kernel) { chosenKernel().store(static_cast<int>(kernel)); }
ConvKernel convKernel() { return static_cast<ConvKernel>(chosenKernel().load()); }

std::unique_ptr<Op> makeConvWith(ConvKernel kernel, const OpContext& context) {
  if (kernel == ConvKernel::kOnednn) return makeOnednnConv(context);
  if (kernel == ConvKernel::kWinograd) return winogradFits(context) ? makeWinogradConv(context) : nullptr;
  return makeDirectConv(context);
}

}  // namespace ddad
