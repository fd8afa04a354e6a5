#pragma once
// Inner loops of the depthwise convolution, NHWC: one call handles one row of output pixels. Weights are [k*k, C].
#include <cstdint>

#include "device/dispatch.h"

namespace ddad {

struct DepthwiseRow {
  int64_t channels, inHeight, inWidth, outWidth;
  int kernel, stride, pad;
  int64_t y;  // output row
};

/// y[x, c] = f(bias[c] + sum of w x), f = ReLU6 or identity.
DDAD_DECLARE_SIMD(void, depthwiseForwardRow,
                  (const DepthwiseRow& row, const float* image, const float* weights, const float* bias, float* out,
                   int relu6))
/// dx += w dy, scattered from one output row into the image's gradient.
DDAD_DECLARE_SIMD(void, depthwiseDataRow,
                  (const DepthwiseRow& row, const float* weights, const float* outGrad, float* imageGrad))
/// dw[k*k, C] += x dy over one output row.
DDAD_DECLARE_SIMD(void, depthwiseWeightRow,
                  (const DepthwiseRow& row, const float* image, const float* outGrad, float* weightGrad))

}  // namespace ddad
