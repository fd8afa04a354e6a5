#pragma once
#include "graph/graph.h"
#include "unet/config.h"

namespace ddad {

/// The UNet of guided-diffusion as an op list. Parameter names and shapes are those of its checkpoints; the feature
/// head (formulas: score (10)) adds feat_rec1.0.* and feat_rec1.2.*.
struct UNet {
  Graph graph;
  TensorId x = -1;         // input [n, H, W, inChannels]
  TensorId t = -1;         // input [n, 1]: the original (unspaced) time step
  TensorId y = -1;         // input [n, 1]: labels; -1 where the model has no classes
  TensorId out = -1;       // output [n, H, W, outChannels]
  TensorId features = -1;  // output [n, H/4, W/4, featureChannels]; -1 where there is no feature head
};

UNet buildUNet(const UNetConfig& config);

}  // namespace ddad
