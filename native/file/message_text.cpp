#include "file/message_text.h"

namespace ddad {

std::string shapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string quoteName(std::string_view name) {
  constexpr size_t kLongest = 120;
  size_t length = name.size();
  if (length > kLongest) {
    length = kLongest;
    while (length > 0 && (static_cast<unsigned char>(name[length]) & 0xC0) == 0x80) --length;  // whole characters
  }
  std::string text = "\"";
  for (char c : name.substr(0, length)) text += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return text + (length < name.size() ? "...\"" : "\"");
}

}  // namespace ddad
