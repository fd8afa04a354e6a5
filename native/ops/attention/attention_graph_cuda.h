#pragma once
// Self-attention as graphs of cuDNN (fused: no matrix of scores in memory), on bf16 tensors that lie as qkv and its
// output do: [n, tokens, channels].
#include "ops/cudnn/dnn_graph_cuda.h"

namespace ddad {

struct AttentionSpec {
  int64_t n, tokens, heads, width;  // width: channels of a head
  bool splitBeforeHeads;            // channels of qkv as [q|k|v][head] or [head][q|k|v]
  float scale;                      // of the scores
  bool layoutOnly = false;          // asked for its memory alone: no engine is looked for
  int64_t channels() const { return heads * width; }
  /// Where the first q (0), k (1) or v (2) lies among the channels of qkv.
  int64_t offset(int part) const { return part * (splitBeforeHeads ? channels() : width); }
  /// From one head to the next among them.
  int64_t headStride() const { return splitBeforeHeads ? width : 3 * width; }
};

/// Tensors of the graphs.
enum AttentionTensor : int64_t {
  kAttentionQ = 1,
  kAttentionK,
  kAttentionV,
  kAttentionOut,
  kAttentionStats,  // float32 [n, heads, tokens]: what backward needs of the softmax
  kAttentionOutGradient,
  kAttentionQGradient,
  kAttentionKGradient,
  kAttentionVGradient
};

/// Null, and the reason in `why`, where cuDNN has no engine for it. With stats where backward will be wanted.
std::shared_ptr<const DnnGraph> attentionForward(const CudaDevice& device, const AttentionSpec& spec, bool withStats,
                                                 std::string* why);
/// The gradients lie as qkv does.
std::shared_ptr<const DnnGraph> attentionBackward(const CudaDevice& device, const AttentionSpec& spec,
                                                  std::string* why);

}  // namespace ddad
