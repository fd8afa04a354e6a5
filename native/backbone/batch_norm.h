#pragma once
// Batch norms of pretrained weights, folded into the convolutions before them.
#include <string>
#include <vector>

#include "file/tensor_source.h"

namespace ddad {

/// Reads `conv`.weight of this shape into `weight` and its bias into `bias`. y = gamma (w x - mean) / sqrt(var + eps) +
/// beta of `norm` is folded into both; where the file has `conv`.bias, that has been done already, or there is no norm
/// (`norm` empty). Throws ERR_MODEL_FORMAT.
void readConvolution(const TensorSource& file, const std::string& conv, const std::string& norm, double eps,
                     const std::vector<int64_t>& shape, float* weight, float* bias);

}  // namespace ddad
