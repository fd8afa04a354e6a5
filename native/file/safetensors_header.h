#pragma once
// The JSON header of a safetensors file, checked on its own terms; internal to file/.
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "file/dtype.h"
#include "file/message_text.h"

namespace ddad {

/// A header that breaks the format. The reader adds the file's name.
class HeaderError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct HeaderTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // relative to the end of the header
};

struct Header {
  std::map<std::string, std::string> metadata;
  std::vector<HeaderTensor> tensors;  // by offset
};

/// Parses the header's text and checks it against the `dataBytes` that follow it in the file. Throws HeaderError.
Header parseHeader(std::string_view text, uint64_t dataBytes);

/// The product of a shape times the size of an element, or -1 when an extent is negative or the product overflows.
int64_t shapeBytes(const std::vector<int64_t>& shape, DType dtype);

}  // namespace ddad
