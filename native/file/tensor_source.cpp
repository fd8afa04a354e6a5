#include "file/tensor_source.h"

#include "base/error.h"

namespace ddad {

const std::vector<int64_t>& TensorSource::shapeOf(const std::string& name) const {
  const std::vector<int64_t>* shape = findShape(name);
  if (shape == nullptr) fail("expected a tensor " + quoteName(name) + ", got none of that name");
  return *shape;
}

void TensorSource::fail(const std::string& what) const { throw Error("ERR_MODEL_FORMAT", path() + ": " + what); }

}  // namespace ddad
