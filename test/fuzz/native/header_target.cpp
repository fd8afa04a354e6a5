// The header of a safetensors file alone: no file, hence many inputs a second.
#include <cstdlib>

#include "file/safetensors_header.h"
#include "support.h"

namespace ddad::fuzz {
namespace {

void run(std::string_view input) {
  const uint64_t dataBytes = promisedBytes(input);
  try {
    const Header header = parseHeader(input, dataBytes);
    uint64_t end = 0;
    for (const HeaderTensor& tensor : header.tensors) {
      if (tensor.begin != end || tensor.end < tensor.begin || tensor.end > dataBytes) std::abort();
      if (shapeBytes(tensor.shape, tensor.dtype) != static_cast<int64_t>(tensor.end - tensor.begin)) std::abort();
      end = tensor.end;
    }
    if (end != dataBytes) std::abort();
  } catch (const HeaderError& error) {
    if (std::string_view(error.what()).size() > 4000) std::abort();
  }
}

std::vector<std::string> seeds() {
  return {
      R"({"__metadata__":{"format":"ddad-native","k":"\u00e9"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]},"b":{"shape":[0],"dtype":"I64","data_offsets":[1,1]}})",
      "{}"};
}

const Registered registered({"header", Format::kText, run, seeds});

}  // namespace
}  // namespace ddad::fuzz
