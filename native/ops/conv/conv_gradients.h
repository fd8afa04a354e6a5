#pragma once
// What the kernels of convolutions have in common in backward.
#include <cstdint>
#include <vector>

#include "graph/op.h"

namespace ddad {

/// Adds the output's gradient to that of the residual, where it does not lie there already.
void addResidualGradient(const OpContext& context, const OpBuffers& buffers);

/// wgrad shared by the kernels: the weight gradient as a sum over pixels of outer products, read from NHWC directly.
class ConvWeightGradient {
 public:
  explicit ConvWeightGradient(const OpContext& context);
  int64_t workspaceFloats() const;
  /// Gradients of weight (OIHW) and, where `biasGrad` is not null, of bias.
  void run(const std::vector<const float*>& sources, const float* outGrad, float* workspace, const float* zeros,
           float* weightGrad, float* biasGrad) const;

 private:
  void runShare(int64_t first, int64_t last, int worker, const std::vector<const float*>& sources, const float* outGrad,
                float* workspace, const float* zeros) const;

  const OpContext& context_;
  int64_t taps_, inChannels_, outChannels_, chunk_, paddedColumns_, gradFloats_, biasFloats_, workerFloats_;
};

}  // namespace ddad
