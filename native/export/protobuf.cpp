#include "export/protobuf.h"

#include <cstring>

namespace ddad {
namespace {

enum WireType { kVarint = 0, kLength = 2, kFixed32 = 5 };

}  // namespace

void Protobuf::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7f) | 0x80);
  bytes_ += static_cast<char>(value);
}

void Protobuf::integer(int field, int64_t value) {
  tag(field, kVarint);
  varint(static_cast<uint64_t>(value));
}

void Protobuf::number(int field, float value) {
  char raw[sizeof value];  // little-endian, as every machine that this package runs on (safetensors.cpp)
  std::memcpy(raw, &value, sizeof raw);
  tag(field, kFixed32);
  bytes_.append(raw, sizeof raw);
}

void Protobuf::begin(int field, int64_t bytes) {
  tag(field, kLength);
  varint(static_cast<uint64_t>(bytes));
}

void Protobuf::text(int field, std::string_view value) {
  begin(field, static_cast<int64_t>(value.size()));
  bytes_ += value;
}

}  // namespace ddad
