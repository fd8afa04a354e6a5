#include "device/dispatch.h"

#include <cstdlib>
#include <string>

#include "base/error.h"

namespace ddad {
namespace {

Isa detect() {
#if defined(__x86_64__) && !defined(DDAD_BASELINE_ONLY)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

Isa fromEnvironment() {
  const Isa best = detect();
  const char* name = std::getenv("DDAD_MAX_CPU_ISA");
  if (name == nullptr || *name == '\0') return best;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512})
    if (std::string(name) == isaName(isa)) return isa < best ? isa : best;
  throw Error("ERR_OPTION", std::string("DDAD_MAX_CPU_ISA: expected baseline, avx2 or avx512, got ") + name);
}

}  // namespace

const char* isaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

Isa cpuIsa() {
  static const Isa isa = fromEnvironment();
  return isa;
}

}  // namespace ddad
