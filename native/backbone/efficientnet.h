#pragma once
// EfficientNet (Lite0 to Lite4, B0 to B7) as an op list: the pretrained features f(x_0) of the feature-level score
// (10).
#include <string>
#include <vector>

#include "backbone/state_dict.h"
#include "base/aligned_buffer.h"
#include "file/tensor_source.h"
#include "graph/graph.h"

namespace ddad {

/// A backbone with its batch norms folded into the convolutions. Input: [n, H, W, 3] in the range that the caller
/// chooses; taps: the last block of the stages at stride 2, 4, 8, 16 and 32. Its layers carry the names of
/// efficientnet_pytorch, whatever names the file has.
struct Backbone {
  struct Tap {
    std::string name;  // "block10"
    TensorId tensor;
    int64_t channels;
    int level;
  };
  Graph graph;
  TensorId input = -1;
  std::vector<Tap> taps;
  AlignedBuffer parameters;
  BackboneStyle style;
};

/// The stride of the deepest tap that the blocks of a file make. Throws ERR_MODEL_FORMAT.
int64_t deepestStride(const TensorSource& file, const std::string& prefix = "");

/// Reads the weights in the names of efficientnet_pytorch or of timm, each after `prefix` (the depth, the widths and
/// whether blocks have squeeze-excite are those of the file, the rest is readStyle's), up to the tap at `maxStride`;
/// batch norms are folded here unless the file has them folded. Throws ERR_MODEL_FORMAT where a tensor is missing or
/// has another shape than its neighbours imply.
Backbone loadBackbone(const TensorSource& file, const std::string& prefix = "", int64_t maxStride = 16);

}  // namespace ddad
