#pragma once
#include <memory>

#include "graph/op.h"

namespace ddad {

/// Which kernel computes convolutions; kAuto takes the one measured fastest for the shape.
enum class ConvKernel { kAuto, kDirect, kWinograd, kOnednn };
constexpr int kConvKernels = 4;
const char* convKernelName(ConvKernel kernel);

/// Forces one kernel for everything that it can do; from DDAD_CONV (auto, direct, winograd or onednn) at start.
void setConvKernel(ConvKernel kernel);
ConvKernel convKernel();

/// Convolution by that kernel; null where it cannot do it. kAuto is not a kernel.
std::unique_ptr<Op> makeConvWith(ConvKernel kernel, const OpContext& context);

}  // namespace ddad
