#pragma once

namespace ddad::bench {

/// Times the scoring pass and the training step of `nano` and `lite` with each convolution kernel, in turn, and prints
/// medians side by side.
int runKernelBench(int threads, int rounds);

}  // namespace ddad::bench
