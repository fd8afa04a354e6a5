#include "file/dtype.h"

#include <string>

#include "base/error.h"

namespace ddad {
namespace {

const DTypeInfo& info(DType dtype) {
  for (const DTypeInfo& entry : kDTypes) {
    if (entry.dtype == dtype) return entry;
  }
  throw Error("ERR_INTERNAL", "expected a known dtype, got number " + std::to_string(static_cast<int>(dtype)));
}

}  // namespace

int64_t dtypeSize(DType dtype) { return info(dtype).size; }

const char* dtypeName(DType dtype) { return info(dtype).name; }

}  // namespace ddad
