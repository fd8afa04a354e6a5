#pragma once
#include <cstdint>

namespace ddad {

/// Element types of the format that this package knows.
enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

struct DTypeInfo {
  DType dtype;
  const char* name;
  int64_t size;
};

inline constexpr DTypeInfo kDTypes[] = {
    {DType::kF64, "F64", 8},   {DType::kF32, "F32", 4}, {DType::kF16, "F16", 2}, {DType::kBF16, "BF16", 2},
    {DType::kI64, "I64", 8},   {DType::kI32, "I32", 4}, {DType::kI16, "I16", 2}, {DType::kI8, "I8", 1},
    {DType::kU64, "U64", 8},   {DType::kU32, "U32", 4}, {DType::kU16, "U16", 2}, {DType::kU8, "U8", 1},
    {DType::kBool, "BOOL", 1},
};

/// Bytes of one element.
int64_t dtypeSize(DType dtype);

/// The name in a file's header, e.g. "F32".
const char* dtypeName(DType dtype);

}  // namespace ddad
