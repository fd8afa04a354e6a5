#include "base/vecmath.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "doctest.h"

// Each function in two builds: as the file is compiled, and with fused multiply-add, as the AVX2 and AVX-512 kernels.
#if defined(__x86_64__)
#define FUSED __attribute__((target("avx2,fma")))
#else
#define FUSED
#endif
#define BOTH(NAME, EXPRESSION)               \
  float NAME(float x) { return EXPRESSION; } \
  FUSED float NAME##Fused(float x) { return EXPRESSION; }

namespace {

using namespace ddad;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

BOTH(expOf, fastExp(x))
BOTH(expm1Of, fastExpm1(x))
BOTH(logOf, fastLog(x))
BOTH(log1pOf, fastLog1p(x))
BOTH(tanhOf, fastTanh(x))
BOTH(sigmoidOf, fastSigmoid(x))
BOTH(siluOf, fastSilu(x))
BOTH(siluGradientOf, fastSiluGradient(x))
BOTH(expMinusOneMinusOf, expMinusOneMinus(x))

void sinCos(float u, float* s, float* c) { fastSinCos2Pi(u, s, c); }
FUSED void sinCosFused(float u, float* s, float* c) { fastSinCos2Pi(u, s, c); }

bool fusedAvailable() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

using Function = float (*)(float);

struct Builds {
  Function plain, fused;
  std::vector<Function> all() const { return fusedAvailable() ? std::vector{plain, fused} : std::vector{plain}; }
};
#define BUILDS(NAME) \
  Builds { NAME, NAME##Fused }

/// |value - exact| in units of the last place of the float nearest to `exact`.
double ulps(float value, double exact) {
  const float nearest = static_cast<float>(exact);
  if (std::isinf(nearest) || std::isinf(value)) return value == nearest ? 0.0 : 1e9;
  int exponent = 0;
  std::frexp(nearest, &exponent);
  return std::abs(value - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

/// The largest error over many points of [low, high], evenly spaced, and near 0 on a logarithmic scale too.
template <class Exact>
double largestError(Function function, Exact exact, float low, float high) {
  double worst = 0.0;
  const auto visit = [&](float x) {
    if (x < low || x > high) return;
    const double error = ulps(function(x), exact(static_cast<double>(x)));
    if (!(error <= worst)) worst = error;
  };
  constexpr int kPoints = 400000;
  for (int i = 0; i <= kPoints; ++i) visit(low + (high - low) * static_cast<float>(i) / kPoints);
  for (int i = 0; i < kPoints / 4; ++i) {
    const float x = std::ldexp(1.0f + static_cast<float>(i % 997) / 997.0f, -i % 140);
    visit(x);
    visit(-x);
  }
  return worst;
}

}  // namespace

TEST_SUITE("vecmath") {
  TEST_CASE("accuracy, in units of the last place") {
    const auto check = [](const char* name, Builds builds, auto exact, float low, float high, double bound) {
      for (const Function function : builds.all()) {
        const double worst = largestError(function, exact, low, high);
        INFO(std::string(name), ": ", worst);
        CHECK(worst <= bound);
      }
    };
    check("exp", BUILDS(expOf), [](double x) { return std::exp(x); }, -87.0f, 88.5f, 1.2);
    check("expm1", BUILDS(expm1Of), [](double x) { return std::expm1(x); }, -20.0f, 88.5f, 2.0);
    check("log", BUILDS(logOf), [](double x) { return std::log(x); }, 1e-45f, 100.0f, 1.0);
    check("log, large", BUILDS(logOf), [](double x) { return std::log(x); }, 1.0f, 3e38f, 1.0);
    check("log1p", BUILDS(log1pOf), [](double x) { return std::log1p(x); }, 0.0f, 50.0f, 1.5);
    check("log1p, large", BUILDS(log1pOf), [](double x) { return std::log1p(x); }, 0.0f, 1e30f, 1.5);
    check("tanh", BUILDS(tanhOf), [](double x) { return std::tanh(x); }, -25.0f, 25.0f, 3.0);
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    check("sigmoid", BUILDS(sigmoidOf), sigmoid, -86.0f, 86.0f, 3.0);
    check("silu", BUILDS(siluOf), [&](double x) { return x * sigmoid(x); }, -80.0f, 86.0f, 3.0);
    check(
        "e^x - 1 - x", BUILDS(expMinusOneMinusOf),
        [](double x) {
          if (std::abs(x) > 0.1) return std::exp(x) - 1 - x;
          double term = 1.0, sum = 0.0;
          for (int n = 1; n < 20; ++n) {
            term *= x / n;
            if (n > 1) sum += term;
          }
          return sum;
        },
        -20.0f, 20.0f, 4.0);
  }

  TEST_CASE("the derivative of silu") {
    const auto exact = [](double x) {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    };
    for (const Function function : BUILDS(siluGradientOf).all())
      for (float x = -30.0f; x < 30.0f; x += 0.01f)
        CHECK(function(x) == doctest::Approx(exact(x)).epsilon(2e-6).scale(0.1));
  }

  TEST_CASE("sine and cosine of a turn") {
    double worst = 0.0;
    for (int i = 0; i < (1 << 20); ++i) {
      const float u = static_cast<float>(i) / (1 << 20);
      const double angle = 2 * std::numbers::pi * u;
      float s[2], c[2];
      sinCos(u, &s[0], &c[0]);
      if (fusedAvailable()) sinCosFused(u, &s[1], &c[1]);
      for (int build = 0; build < (fusedAvailable() ? 2 : 1); ++build)
        worst = std::max({worst, std::abs(s[build] - std::sin(angle)), std::abs(c[build] - std::cos(angle))});
    }
    CHECK(worst < 1.5e-7);
    float s, c;
    sinCos(0.25f, &s, &c);
    CHECK(s == 1.0f);
    CHECK(c == 0.0f);
  }

  TEST_CASE("overflow, underflow, infinities and NaN") {
    for (const Function function : BUILDS(expOf).all()) {
      CHECK(function(0.0f) == 1.0f);
      CHECK(function(88.8f) == kInfinity);
      CHECK(function(1e30f) == kInfinity);
      CHECK(function(kInfinity) == kInfinity);
      CHECK(function(-104.0f) == 0.0f);
      CHECK(function(-1e30f) == 0.0f);
      CHECK(function(-kInfinity) == 0.0f);
      CHECK(function(-100.0f) == doctest::Approx(std::exp(-100.0)).epsilon(0.05));  // subnormal
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(expm1Of).all()) {
      CHECK(function(kInfinity) == kInfinity);
      CHECK(function(-kInfinity) == -1.0f);
      CHECK(function(-1e30f) == -1.0f);
      CHECK(function(1e-30f) == 1e-30f);
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(logOf).all()) {
      CHECK(function(1.0f) == 0.0f);
      CHECK(function(0.0f) == -kInfinity);
      CHECK(function(kInfinity) == kInfinity);
      CHECK(std::isnan(function(-1.0f)));
      CHECK(std::isnan(function(-kInfinity)));
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(log1pOf).all()) {
      CHECK(function(0.0f) == 0.0f);
      CHECK(function(kInfinity) == kInfinity);
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(tanhOf).all()) {
      CHECK(function(kInfinity) == 1.0f);
      CHECK(function(-kInfinity) == -1.0f);
      CHECK(function(1e-30f) == 1e-30f);
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(sigmoidOf).all()) {
      CHECK(function(kInfinity) == 1.0f);
      CHECK(function(-kInfinity) == 0.0f);
      CHECK(function(0.0f) == 0.5f);
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(siluOf).all()) {
      CHECK(function(kInfinity) == kInfinity);
      CHECK(function(-1e30f) == 0.0f);
      CHECK(std::isnan(function(kNan)));
    }
    for (const Function function : BUILDS(expMinusOneMinusOf).all()) {
      CHECK(function(0.0f) == 0.0f);
      CHECK(function(-1e6f) == doctest::Approx(1e6));
      CHECK(function(100.0f) == kInfinity);
      CHECK(std::isnan(function(kNan)));
    }
  }
}
