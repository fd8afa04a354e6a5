#include "ops/elementwise/activation.h"

#include <algorithm>
#include <cstring>

#include "device/parallel.h"
#include "ops/elementwise/elementwise.h"

namespace ddad {
namespace {

constexpr int64_t kPiece = 16384;  // values of one work item

}  // namespace

void activate(Activation activation, const float* x, float* y, int64_t n) {
  switch (activation) {
    case Activation::kSilu:
      return DDAD_DISPATCH(siluForward)(y, x, n);
    case Activation::kRelu6:
      return DDAD_DISPATCH(relu6Forward)(y, x, n);
    case Activation::kNone:
      if (y != x) std::memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
  }
}

bool gradientReadsArgument(Activation activation) { return activation == Activation::kSilu; }

void activationGradient(int threads, Activation activation, const float* kept, const float* dy, float* dx, int64_t n) {
  const auto silu = DDAD_DISPATCH(siluBackward);
  const auto relu6 = DDAD_DISPATCH(relu6Gradient);
  parallelFor(threads, (n + kPiece - 1) / kPiece, [&](int64_t i) {
    const int64_t at = i * kPiece, count = std::min(kPiece, n - at);
    switch (activation) {
      case Activation::kSilu:
        return silu(dx + at, kept + at, dy + at, count, 0);
      case Activation::kRelu6:
        return relu6(dx + at, kept + at, dy + at, count);
      case Activation::kNone:
        std::memcpy(dx + at, dy + at, static_cast<size_t>(count) * sizeof(float));
    }
  });
}

}  // namespace ddad
