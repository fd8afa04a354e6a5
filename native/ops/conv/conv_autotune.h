#pragma once
#include "device/choices.h"
#include "ops/conv/conv_kernels.h"

namespace ddad {

/// The kernel that a table kept on disk names for a convolution like this one. Where it names none, the candidates are
/// timed and the table gains a line: `usual`, unless another one is faster by a tenth. `usual` where there is no table.
ConvKernel tunedConvKernel(const OpContext& context, ConvKernel usual, Choices& choices);

}  // namespace ddad
