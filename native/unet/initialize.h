#pragma once
#include <functional>

#include "unet/unet.h"

namespace ddad {

/// Fresh weights as guided-diffusion makes them: uniform within 1 / sqrt(fan in) for convolutions and linear layers,
/// norms at identity, label embeddings normal, and zero for the last convolution of each residual and attention block
/// and of the network. Each parameter draws from its own place in the random stream, so adding one changes no other.
void initializeUNet(const UNet& net, uint64_t seed, float* block);

/// Where the values of a parameter go: memory that holds zeros.
using ParameterPlace = std::function<float*(const ParamSpec&)>;
/// The same for the parameters of one op.
void initializeOp(const Graph& graph, const OpRecord& op, uint64_t seed, const ParameterPlace& place);

}  // namespace ddad
