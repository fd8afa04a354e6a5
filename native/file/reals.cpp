#include "file/reals.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "base/error.h"

namespace ddad {
namespace {

float halfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1Fu;
  const uint32_t fraction = half & 0x3FFu;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1F ? 0xFFu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

float toReal(float value) { return value; }
double toReal(double value) { return value; }

struct Half {
  uint16_t bits;
};
struct BrainHalf {
  uint16_t bits;
};
float toReal(Half value) { return halfToFloat(value.bits); }
float toReal(BrainHalf value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

template <class Stored, class Out>
void convert(const std::byte* from, int64_t stride, int64_t count, Out* out) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(Stored));
  if constexpr (std::is_same_v<Stored, Out>) {
    if (stride == 1) {
      if (count > 0) std::memcpy(out, from, static_cast<size_t>(count * kSize));
      return;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, from + i * stride * kSize, sizeof(Stored));
    out[i] = static_cast<Out>(toReal(stored));
  }
}

template <class Out>
void convertAny(DType dtype, const std::byte* from, int64_t stride, int64_t count, Out* out) {
  switch (dtype) {
    case DType::kF64:
      return convert<double>(from, stride, count, out);
    case DType::kF32:
      return convert<float>(from, stride, count, out);
    case DType::kF16:
      return convert<Half>(from, stride, count, out);
    case DType::kBF16:
      return convert<BrainHalf>(from, stride, count, out);
    default:
      throw Error("ERR_INTERNAL", std::string("expected a type of reals, got ") + dtypeName(dtype));
  }
}

}  // namespace

bool isReal(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

void readReals(DType dtype, const std::byte* from, int64_t stride, int64_t count, float* out) {
  convertAny(dtype, from, stride, count, out);
}

void readReals(DType dtype, const std::byte* from, int64_t stride, int64_t count, double* out) {
  convertAny(dtype, from, stride, count, out);
}

std::string notFinite(const float* values, int64_t count, int64_t first) {
  const float* end = values + count;
  const float* bad = std::find_if(values, end, [](float v) { return !std::isfinite(v); });
  if (bad == end) return "";
  const char* what = std::isnan(*bad) ? "NaN" : *bad > 0 ? "infinity" : "-infinity";
  return std::string("expected finite values, got ") + what + " at element " + std::to_string(bad - values + first);
}

}  // namespace ddad
