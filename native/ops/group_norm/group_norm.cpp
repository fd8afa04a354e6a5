// Group norm over NHWC, fused with what surrounds it: the concatenation of a skip connection (two sources), an added
// embedding vector or a scale-shift, and SiLU.
//   x' = x + e (mode add);  xhat = (x' - mean_g) rstd_g;  z = (gamma xhat + beta)(1 + scale) + shift;  y = silu(z)
#include "ops/group_norm/group_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "device/parallel.h"
#include "ops/group_norm/group_norm_kernels.h"
#include "ops/group_norm/group_norm_math.h"

namespace ddad {
namespace {

constexpr int64_t kRows = 128;  // pixels summed in float before the partial sums are added in double

class GroupNorm : public Op {
 public:
  explicit GroupNorm(OpContext context) : Op(std::move(context)) {
    channels_ = context_.out.c;
    groups_ = attr().groups;
    pixels_ = context_.out.h * context_.out.w;
    chunks_ = (pixels_ + kRows - 1) / kRows;
  }

  bool backwardReadsInput(int) const override { return true; }

  // a, b (z = a x + b), h, m (xhat = h x + m), each [n, C]; the channel means of xhat [n, C] for the added vector.
  int64_t savedFloats() const override { return 5 * context_.out.n * channels_; }
  int64_t forwardWorkspaceFloats() const override { return 2 * context_.out.n * chunks_ * channels_ + channels_; }
  int64_t backwardWorkspaceFloats() const override {
    return 2 * context_.out.n * chunks_ * channels_ + 5 * context_.out.n * channels_;
  }

  void forward() override {
    const int64_t n = context_.out.n, plane = n * channels_;
    const auto sums = DDAD_DISPATCH(normSums);
    const auto apply = DDAD_DISPATCH(normApply);
    float* s1 = buffers_.workspace;
    float* s2 = s1 + n * chunks_ * channels_;
    parallelFor(threads(), n * chunks_, [&](int64_t i) {
      const int64_t sample = i / chunks_, first = i % chunks_ * kRows;
      int64_t offset = 0;
      for (int s = 0; s < attr().sources; ++s) {
        const int64_t c = sourceChannels(s);
        const float* x = buffers_.in[static_cast<size_t>(s)] + sample * pixels_ * c;
        // the sample's first pixel stands for the mean: any value near it will do
        sums(x + first * c, std::min(kRows, pixels_ - first), c, x, s1 + i * channels_ + offset,
             s2 + i * channels_ + offset);
        offset += c;
      }
    });
    for (int64_t sample = 0; sample < n; ++sample) statistics(sample, s1, s2);
    parallelFor(threads(), n * chunks_, [&](int64_t i) {
      const int64_t sample = i / chunks_, first = i % chunks_ * kRows;
      int64_t offset = 0;
      for (int s = 0; s < attr().sources; ++s) {
        const int64_t c = sourceChannels(s), at = sample * channels_ + offset;
        apply(buffers_.in[static_cast<size_t>(s)] + (sample * pixels_ + first) * c, std::min(kRows, pixels_ - first), c,
              buffers_.saved + at, buffers_.saved + plane + at,
              buffers_.out + (sample * pixels_ + first) * channels_ + offset, channels_, silu());
        offset += c;
      }
    });
  }

  void backward() override {
    const int64_t n = context_.out.n, plane = n * channels_;
    const auto sums = DDAD_DISPATCH(normGradSums);
    const auto apply = DDAD_DISPATCH(normGradApply);
    float* s1 = buffers_.backwardWorkspace;
    float* s2 = s1 + n * chunks_ * channels_;
    float* total1 = s2 + n * chunks_ * channels_;  // the sums over all pixels, then p, q, r of dx = p dz + q x + r
    float *total2 = total1 + plane, *p = total2 + plane, *q = p + plane, *r = q + plane;
    const float *a = buffers_.saved, *b = a + plane, *h = b + plane, *m = h + plane;
    parallelFor(threads(), n * chunks_, [&](int64_t i) {
      const int64_t sample = i / chunks_, first = i % chunks_ * kRows;
      int64_t offset = 0;
      for (int s = 0; s < attr().sources; ++s) {
        const int64_t c = sourceChannels(s), at = sample * channels_ + offset;
        sums(buffers_.in[static_cast<size_t>(s)] + (sample * pixels_ + first) * c,
             buffers_.outGrad + (sample * pixels_ + first) * channels_ + offset, channels_,
             std::min(kRows, pixels_ - first), c, a + at, b + at, h + at, m + at, silu(), s1 + i * channels_ + offset,
             s2 + i * channels_ + offset);
        offset += c;
      }
    });
    for (int64_t sample = 0; sample < n; ++sample) inputCoefficients(sample, s1, s2, total1, total2, p, q, r);
    parameterGradients(total1, total2);
    parallelFor(threads(), n * chunks_, [&](int64_t i) {
      const int64_t sample = i / chunks_, first = i % chunks_ * kRows;
      int64_t offset = 0;
      for (int s = 0; s < attr().sources; ++s) {
        const auto index = static_cast<size_t>(s);
        const int64_t c = sourceChannels(s), at = sample * channels_ + offset, pixel = sample * pixels_ + first;
        if (context_.inputGradient[index])
          apply(buffers_.in[index] + pixel * c, buffers_.outGrad + pixel * channels_ + offset, channels_,
                std::min(kRows, pixels_ - first), c, a + at, b + at, silu(), p + at, q + at, r + at,
                buffers_.inGrad[index] + pixel * c, buffers_.accumulate[index]);
        offset += c;
      }
    });
  }

 private:
  int64_t sourceChannels(int s) const { return context_.in[static_cast<size_t>(s)].c; }
  int silu() const { return attr().activation == Activation::kSilu; }
  bool scaleShift() const { return attr().embedding == EmbeddingMode::kScaleShift; }
  bool adds() const { return attr().embedding == EmbeddingMode::kAdd; }
  const float* embedding() const { return buffers_.in[static_cast<size_t>(attr().sources)]; }
  /// First pixel of a sample, channel c of the concatenation: the pivot of the sums.
  float pivot(int64_t sample, int64_t c) const {
    for (int s = 0;; ++s) {
      const int64_t width = sourceChannels(s);
      if (c < width) return buffers_.in[static_cast<size_t>(s)][sample * pixels_ * width + c];
      c -= width;
    }
  }

  /// Mean and variance of each group, and with them the affine maps of each channel.
  void statistics(int64_t sample, const float* s1, const float* s2) {
    const int64_t perGroup = channels_ / groups_, plane = context_.out.n * channels_;
    const auto count = static_cast<double>(pixels_);
    float *a = buffers_.saved + sample * channels_, *b = a + plane, *h = b + plane, *m = h + plane, *hat = m + plane;
    const float *gamma = buffers_.param[0], *beta = buffers_.param[1];
    for (int64_t g = 0; g < groups_; ++g) {
      double mean = 0, within = 0, between = 0;
      for (int64_t j = 0; j < perGroup; ++j) {
        const int64_t c = g * perGroup + j;
        double t1 = 0, t2 = 0;
        for (int64_t i = 0; i < chunks_; ++i) {
          t1 += static_cast<double>(s1[(sample * chunks_ + i) * channels_ + c]);
          t2 += static_cast<double>(s2[(sample * chunks_ + i) * channels_ + c]);
        }
        double value = static_cast<double>(pivot(sample, c)) + t1 / count;
        if (adds()) value += static_cast<double>(embedding()[sample * channels_ + c]);
        hat[c] = static_cast<float>(value);  // the channel's mean for now
        within += t2 - t1 * t1 / count;
        mean += value;
      }
      mean /= static_cast<double>(perGroup);
      for (int64_t j = 0; j < perGroup; ++j) {
        const double d = static_cast<double>(hat[g * perGroup + j]) - mean;
        between += d * d * count;
      }
      const double rstd =
          normRstd(within + between, count * static_cast<double>(perGroup), static_cast<double>(attr().eps));
      for (int64_t j = 0; j < perGroup; ++j) {
        const int64_t c = g * perGroup + j;
        const double added = adds() ? static_cast<double>(embedding()[sample * channels_ + c]) : 0.0;
        double factor = 1.0, shift = 0.0;
        if (scaleShift()) {
          const float* e = embedding() + sample * 2 * channels_;
          factor += static_cast<double>(e[c]);
          shift = static_cast<double>(e[channels_ + c]);
        }
        const NormMaps maps =
            normMaps(mean, rstd, added, static_cast<double>(gamma[c]), static_cast<double>(beta[c]), factor, shift);
        hat[c] = static_cast<float>((static_cast<double>(hat[c]) - mean) * rstd);
        h[c] = static_cast<float>(rstd);
        m[c] = static_cast<float>(maps.offset);
        a[c] = static_cast<float>(maps.a);
        b[c] = static_cast<float>(maps.b);
      }
    }
  }

  /// dL/dx = rstd (g dz - mean(g dz) - xhat mean(g dz xhat)), g = gamma (1 + scale), means over the group; written as
  /// p dz + q x + r. The gradient of an added vector is its sum over the pixels.
  void inputCoefficients(int64_t sample, const float* s1, const float* s2, float* total1, float* total2, float* p,
                         float* q, float* r) {
    const int64_t perGroup = channels_ / groups_, plane = context_.out.n * channels_, at = sample * channels_;
    const float *h = buffers_.saved + 2 * plane + at, *m = h + plane, *hat = m + plane;
    const float* gamma = buffers_.param[0];
    const double count = static_cast<double>(pixels_ * perGroup);
    const auto e = static_cast<size_t>(attr().sources);
    for (int64_t g = 0; g < groups_; ++g) {
      double mean1 = 0, mean2 = 0;
      for (int64_t c = g * perGroup; c < (g + 1) * perGroup; ++c) {
        double t1 = 0, t2 = 0;
        for (int64_t i = 0; i < chunks_; ++i) {
          t1 += static_cast<double>(s1[(sample * chunks_ + i) * channels_ + c]);
          t2 += static_cast<double>(s2[(sample * chunks_ + i) * channels_ + c]);
        }
        total1[at + c] = static_cast<float>(t1);
        total2[at + c] = static_cast<float>(t2);
        const double factor = gain(sample, c, gamma);
        mean1 += factor * t1;
        mean2 += factor * t2;
      }
      mean1 /= count;
      mean2 /= count;
      for (int64_t c = g * perGroup; c < (g + 1) * perGroup; ++c) {
        const auto rstd = static_cast<double>(h[c]);
        const double factor = gain(sample, c, gamma);
        const NormGradientMaps maps = normGradientMaps(rstd, static_cast<double>(m[c]), factor, mean1, mean2);
        p[at + c] = static_cast<float>(maps.p);
        q[at + c] = static_cast<float>(maps.q);
        r[at + c] = static_cast<float>(maps.r);
        if (adds() && context_.inputGradient[e]) {
          const double sum = normAddedGradient(rstd, factor, static_cast<double>(total1[at + c]),
                                               static_cast<double>(pixels_), mean1, mean2, static_cast<double>(hat[c]));
          float& to = buffers_.inGrad[e][at + c];
          to = (buffers_.accumulate[e] ? to : 0.0f) + static_cast<float>(sum);
        }
      }
    }
  }

  double gain(int64_t sample, int64_t c, const float* gamma) const {
    const auto value = static_cast<double>(gamma[c]);
    return scaleShift() ? value * (1.0 + static_cast<double>(embedding()[sample * 2 * channels_ + c])) : value;
  }

  void parameterGradients(const float* total1, const float* total2) {
    const auto e = static_cast<size_t>(attr().sources);
    const bool embeddingGradient = scaleShift() && context_.inputGradient[e];
    const float *gamma = buffers_.param[0], *beta = buffers_.param[1];
    for (int64_t c = 0; c < channels_; ++c) {
      double dGamma = 0, dBeta = 0;
      for (int64_t sample = 0; sample < context_.out.n; ++sample) {
        const auto t1 = static_cast<double>(total1[sample * channels_ + c]);
        const auto t2 = static_cast<double>(total2[sample * channels_ + c]);
        double factor = 1.0;
        if (scaleShift()) factor += static_cast<double>(embedding()[sample * 2 * channels_ + c]);
        dGamma += factor * t2;
        dBeta += factor * t1;
        if (embeddingGradient) {
          float* scale = buffers_.inGrad[e] + sample * 2 * channels_ + c;
          float* shift = scale + channels_;
          const bool add = buffers_.accumulate[e];
          const double d = static_cast<double>(gamma[c]) * t2 + static_cast<double>(beta[c]) * t1;
          *scale = (add ? *scale : 0.0f) + static_cast<float>(d);
          *shift = (add ? *shift : 0.0f) + static_cast<float>(t1);
        }
      }
      if (context_.paramGradient) {
        buffers_.paramGrad[0][c] = static_cast<float>(dGamma);
        buffers_.paramGrad[1][c] = static_cast<float>(dBeta);
      }
    }
  }

  int64_t channels_, groups_, pixels_, chunks_;
};

}  // namespace

std::unique_ptr<Op> makeGroupNorm(OpContext context) { return std::make_unique<GroupNorm>(std::move(context)); }

}  // namespace ddad
