#pragma once
#include "unet/unet.h"

namespace ddad {

/// Fresh weights as guided-diffusion makes them: uniform within 1 / sqrt(fan in) for convolutions and linear layers,
/// norms at identity, label embeddings normal, and zero for the last convolution of each residual and attention block
/// and of the network. Each parameter draws from its own place in the random stream, so adding one changes no other.
void initializeUNet(const UNet& net, uint64_t seed, float* block);

}  // namespace ddad
