#include "ops/conv/conv.h"

#include "ops/conv/activated_conv.h"
#include "ops/conv/conv_autotune.h"
#include "ops/conv/conv_kernels.h"
#include "ops/conv/winograd_conv.h"

namespace ddad {

std::unique_ptr<Op> makeConv(const OpContext& context) {
  if (context.training && context.record->attr.activation != Activation::kNone)
    return makeActivatedConv(context, makeConv);
  ConvKernel kernel = convKernel();
  if (kernel == ConvKernel::kAuto) {
    const ConvKernel usual = winogradPreferred(context) ? ConvKernel::kWinograd : ConvKernel::kDirect;
    kernel = context.layoutOnly ? usual : tunedConvKernel(context, usual, Choices::ofThisProcessor());
  }
  if (auto op = makeConvWith(kernel, context)) return op;
  return makeConvWith(ConvKernel::kDirect, context);
}

}  // namespace ddad
