#pragma once
// Activations of convolutions, swept over tensors that are in the cache anyway, and their gradients.
#include "graph/graph.h"

namespace ddad {

/// y = f(x) over n values by the calling thread; y may be x.
void activate(Activation activation, const float* x, float* y, int64_t n);

/// Whether the gradient needs f's argument: that of relu6 follows from its value.
bool gradientReadsArgument(Activation activation);

/// dx = dy f'(x) over n values, on all threads; `kept` is x where gradientReadsArgument says so, else f(x).
void activationGradient(int threads, Activation activation, const float* kept, const float* dy, float* dx, int64_t n);

}  // namespace ddad
