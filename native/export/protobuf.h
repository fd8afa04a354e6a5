#pragma once
// The part of protobuf's wire format that writing a model takes: a file of an ONNX model is a few kinds of field, and
// a library for them would be larger than the export.
#include <cstdint>
#include <string>
#include <string_view>

namespace ddad {

/// A message that grows by a field a call, in the order of the calls.
class Protobuf {
 public:
  void integer(int field, int64_t value);
  void number(int field, float value);
  void text(int field, std::string_view value);
  void message(int field, const Protobuf& value) { text(field, value.bytes()); }
  /// The fields of another message after those of this one.
  void append(const Protobuf& other) { bytes_ += other.bytes_; }
  /// The tag and length of a field of `bytes` bytes, which the caller writes after this message.
  void begin(int field, int64_t bytes);

  const std::string& bytes() const { return bytes_; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }

 private:
  void varint(uint64_t value);
  void tag(int field, int wireType) { varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wireType)); }

  std::string bytes_;
};

}  // namespace ddad
