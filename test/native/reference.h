#pragma once
// Every op again, as plainly as the definition reads and in double: what the fast kernels are tested against. Its
// gradients are had by finite differences.
#include <vector>

#include "graph/op.h"

namespace ddad {

using Values = std::vector<double>;

/// Output of one op record. `in` and `params` hold the values in the layouts of the engine (NHWC; checkpoint layout).
Values referenceForward(const OpRecord& record, const std::vector<Shape>& shapes, const std::vector<Values>& in,
                        const std::vector<Values>& params, const Shape& out);

}  // namespace ddad
