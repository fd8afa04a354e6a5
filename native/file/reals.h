#pragma once
// Elements of files as floating-point numbers.
#include <cstddef>
#include <cstdint>
#include <string>

#include "file/dtype.h"

namespace ddad {

/// Whether elements of this type are reals: F64, F32, F16 or BF16.
bool isReal(DType dtype);

/// Converts `count` reals that lie `stride` elements apart; F64 is rounded to float, NaN and infinities are kept.
/// `from` may be unaligned. `dtype` must be one of the reals.
void readReals(DType dtype, const std::byte* from, int64_t stride, int64_t count, float* out);
/// As above, exactly.
void readReals(DType dtype, const std::byte* from, int64_t stride, int64_t count, double* out);

/// What is wrong with the first value that is not finite ("expected finite values, got NaN at element 3"); empty when
/// all are. `first` is the number of the first element, for the message.
std::string notFinite(const float* values, int64_t count, int64_t first = 0);

}  // namespace ddad
