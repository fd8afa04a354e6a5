#pragma once
// Elementary functions that vectorise: branch-free polynomials (the ternaries become blends), one to two units in the
// last place, right at overflow and underflow, NaN in NaN out. CUDA takes its own functions of the same accuracy.
#include <cstdint>

#include "base/host_device.h"

#if defined(__CUDACC__)
#include <math.h>
#endif

namespace ddad {

#if defined(__CUDACC__)

DDAD_HD float fastExp(float x) { return expf(x); }
DDAD_HD float fastExpm1(float x) { return expm1f(x); }
DDAD_HD float fastLog(float x) { return logf(x); }
DDAD_HD float fastSqrt(float x) { return sqrtf(x); }
DDAD_HD double fastSqrt(double x) { return sqrt(x); }
DDAD_HD void fastSinCos2Pi(float u, float* s, float* c) { sincospif(2.0f * u, s, c); }

#else

DDAD_HD float floatFromBits(uint32_t bits) {
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}
DDAD_HD uint32_t bitsOfFloat(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, sizeof bits);
  return bits;
}
/// 2^k for -126 <= k <= 127; other k give garbage, never undefined behaviour.
DDAD_HD float powerOfTwo(int32_t k) { return floatFromBits((static_cast<uint32_t>(k) + 127u) << 23); }

// Adding it to |x| < 2^22 rounds x to an integer, which then stands in the low bits of the sum.
constexpr float kRoundingShift = 12582912.0f;
constexpr uint32_t kRoundingShiftBits = 0x4B400000u;

/// x = n ln 2 + r with |r| <= ln 2 / 2; `n` as an integer. For |x| < 2^20.
DDAD_HD float reduceByLn2(float x, int32_t* n) {
  const float shifted = x * 1.44269504088896341f + kRoundingShift;
  const float rounded = shifted - kRoundingShift;
  *n = static_cast<int32_t>(bitsOfFloat(shifted) - kRoundingShiftBits);
  return (x - rounded * 0.693145751953125f) - rounded * 1.42860682030941723e-6f;
}

/// e^r - 1 - r for |r| <= ln 2 / 2 (or a little more).
DDAD_HD float expRemainder(float r) {
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r;
}

/// e^x; infinity above the range of float, 0 below it.
DDAD_HD float fastExp(float x) {
  float clamped = x < -104.0f ? -104.0f : x;  // NaN compares false and stays
  clamped = clamped > 89.0f ? 89.0f : clamped;
  int32_t n;
  const float r = reduceByLn2(clamped, &n);
  // Two factors, since 2^n alone may be out of range where the result is not.
  const int32_t half = n >> 1;
  return (expRemainder(r) + r + 1.0f) * powerOfTwo(half) * powerOfTwo(n - half);
}

/// e^x - 1 without the cancellation near 0.
DDAD_HD float fastExpm1(float x) {
  float clamped = x < -30.0f ? -30.0f : x;
  clamped = clamped > 89.0f ? 89.0f : clamped;
  int32_t n;
  const float r = reduceByLn2(clamped, &n);
  const float scale = powerOfTwo(n - 1);  // half of 2^n, which is out of range for n = 128
  return 2.0f * (scale * (expRemainder(r) + r) + (scale - 0.5f));
}

/// Natural logarithm; minus infinity at 0, NaN below.
DDAD_HD float fastLog(float x) {
  const bool tiny = x < 1.17549435e-38f;
  const float scaled = tiny ? x * 8388608.0f : x;
  const uint32_t bits = bitsOfFloat(scaled);
  // scaled = 2^e m, m in [sqrt(1/2), sqrt(2))
  const int32_t e0 = static_cast<int32_t>(bits - 0x3F3504F3u) >> 23;
  const float f = floatFromBits(bits - (static_cast<uint32_t>(e0) << 23)) - 1.0f;
  const float e = static_cast<float>(e0) - (tiny ? 23.0f : 0.0f);
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const float f2 = f * f;
  const float tail = (f * f2 * p - e * 2.12194440e-4f) - 0.5f * f2;
  float result = f + tail + e * 0.693359375f;
  result = x > 3.4028234e38f ? x : result;
  result = x == 0.0f ? -__builtin_inff() : result;
  result = x < 0.0f ? __builtin_nanf("") : result;
  return x != x ? x : result;
}

DDAD_HD float fastSqrt(float x) { return __builtin_sqrtf(x); }
DDAD_HD double fastSqrt(double x) { return __builtin_sqrt(x); }

/// sin and cos of 2 pi u, u in [0, 1).
DDAD_HD void fastSinCos2Pi(float u, float* s, float* c) {
  // quadrant q = round(4u), r = 4u - q in [-1/2, 1/2], angle = r pi / 2
  const float shifted = u * 4.0f + kRoundingShift;
  const uint32_t q = bitsOfFloat(shifted);
  const float r = u * 4.0f - (shifted - kRoundingShift);
  const float a = r * 1.57079632679489662f;
  const float z = a * a;
  float sine = -1.9515295891e-4f;
  sine = sine * z + 8.3321608736e-3f;
  sine = sine * z - 1.6666654611e-1f;
  sine = sine * z * a + a;
  float cosine = 2.443315711809948e-5f;
  cosine = cosine * z - 1.388731625493765e-3f;
  cosine = cosine * z + 4.166664568298827e-2f;
  cosine = cosine * z * z - 0.5f * z + 1.0f;
  const bool swap = (q & 1u) != 0;
  const float s0 = swap ? cosine : sine;
  const float c0 = swap ? sine : cosine;
  *s = floatFromBits(bitsOfFloat(s0) ^ ((q & 2u) << 30));
  *c = floatFromBits(bitsOfFloat(c0) ^ (((q + 1u) & 2u) << 30));
}

#endif

/// e^x - 1 - x for x >= -30 or so, exact to a few units also where x is tiny (the divergence of two nearly equal
/// Gaussians is half of this).
DDAD_HD float expMinusOneMinus(float x) {
  // 1/2! .. 1/9!: below 1/2 the next term is under 1e-9 of the first.
  float p = 2.7557319e-6f;
  p = p * x + 2.4801587e-5f;
  p = p * x + 1.9841270e-4f;
  p = p * x + 1.3888889e-3f;
  p = p * x + 8.3333333e-3f;
  p = p * x + 4.1666667e-2f;
  p = p * x + 1.6666667e-1f;
  p = p * x + 0.5f;
  const float nearZero = p * x * x;
  const float far = fastExpm1(x) - x;
  const bool useSeries = (x < 0.5f) & (x > -0.5f);
  return useSeries ? nearZero : far;
}

/// log(1 + x) for x >= 0, without the cancellation near 0.
DDAD_HD float fastLog1p(float x) {
  const float u = 1.0f + x;
  // The rounding error of u, put back to first order; far from 0 it no longer matters and must not become inf - inf.
  const float correction = x < 1e8f ? (x - (u - 1.0f)) / u : 0.0f;
  return fastLog(u) + correction;
}

DDAD_HD float fastTanh(float x) {
  float twice = 2.0f * x;
  twice = twice > 40.0f ? 40.0f : twice;
  twice = twice < -40.0f ? -40.0f : twice;
  const float e = fastExpm1(twice);
  return e / (e + 2.0f);
}

/// 1 / (1 + e^-x)
DDAD_HD float fastSigmoid(float x) { return 1.0f / (1.0f + fastExp(-x)); }
/// x sigmoid(x)
DDAD_HD float fastSilu(float x) { return x / (1.0f + fastExp(-x)); }
/// The derivative of silu at x.
DDAD_HD float fastSiluGradient(float x) {
  const float s = fastSigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace ddad
