#pragma once
#include "device/dispatch.h"

namespace ddad {

// Independent multiply-adds that never leave the registers, `rounds` times over: what a thread can reach at best. The
// result depends on all of them, so that none is left out.
DDAD_DECLARE_SIMD(float, multiplyAdds, (long rounds))
// Floating-point operations of one round, a multiply-add counted as two.
DDAD_DECLARE_SIMD(int, multiplyAddOperations, ())

}  // namespace ddad
