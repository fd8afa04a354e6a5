#include "device/simd.h"
#include "profile/ceiling_kernels.h"

namespace ddad {
namespace DDAD_ISA {

// A multiply-add takes four or five cycles and two begin in one: ten in flight hide that, and twelve still leave the
// registers of the smallest instruction set room for the operands.
static constexpr int kChains = 12;

int multiplyAddOperations() { return kChains * DDAD_VL * 2; }

float multiplyAdds(long rounds) {
  Vec chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = Vec{} + static_cast<float>(i);
  Vec factor = Vec{} + 0.999f, term = Vec{} + 0.001f;
  for (long r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + term;
    // or the compiler would compute several rounds at once
#if defined(__x86_64__)
    __asm__ volatile("" : "+x"(factor), "+x"(term));
#elif defined(__aarch64__)
    __asm__ volatile("" : "+w"(factor), "+w"(term));
#endif
  }
  Vec sum = Vec{};
  for (int i = 0; i < kChains; ++i) sum += chain[i];
  float total = 0;
  for (int i = 0; i < DDAD_VL; ++i) total += sum[i];
  return total;
}

}  // namespace DDAD_ISA
}  // namespace ddad
