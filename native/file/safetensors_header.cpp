#include "file/safetensors_header.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "nlohmann/json.hpp"

namespace ddad {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

DType parseDType(const std::string& name, const std::string& where) {
  std::string known;
  for (const DTypeInfo& entry : kDTypes) {
    if (name == entry.name) return entry.dtype;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw HeaderError(where + ": expected a dtype of " + known + ", got " + quoteName(name));
}

// A header is three levels deep, so the handler knows at every event what may come, and stops at the first thing that
// may not: nesting never gets deeper, and a key that comes twice is seen, which a parsed document would hide.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  Header take() { return std::move(header_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    if (state_ != State::kArray) return unexpected("a number");
    throw HeaderError(where() + ": expected integers from 0 in \"" + field_ + "\", got " + std::to_string(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kArray) return unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      throw HeaderError(where() + ": expected integers below 2^63 in \"" + field_ + "\", got " + std::to_string(value));
    }
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool number_float(number_float_t, const string_t& text) override {
    if (state_ != State::kArray) return unexpected("a number");
    throw HeaderError(where() + ": expected integers below 2^63 in \"" + field_ + "\", got " + quoteName(text));
  }
  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      if (!header_.metadata.emplace(key_, std::move(value)).second) {
        throw HeaderError("expected distinct keys in __metadata__, got " + quoteName(key_) + " twice");
      }
      return true;
    }
    if (state_ != State::kTensor || field_ != "dtype") return unexpected("a string");
    tensor_.dtype = parseDType(value, where());
    return true;
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kRoot;
    } else if (state_ == State::kRoot && key_ == kMetadataKey) {
      state_ = State::kMetadata;
    } else if (state_ == State::kRoot) {
      state_ = State::kTensor;
      tensor_ = HeaderTensor{};
      tensor_.name = key_;
      hasDType_ = hasShape_ = hasOffsets_ = false;
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool key(string_t& value) override {
    if (state_ == State::kTensor) {
      bool* seen = value == "dtype"          ? &hasDType_
                   : value == "shape"        ? &hasShape_
                   : value == "data_offsets" ? &hasOffsets_
                                             : nullptr;
      if (seen == nullptr) {
        throw HeaderError(where() + ": expected dtype, shape and data_offsets, got a field " + quoteName(value));
      }
      if (*seen) throw HeaderError(where() + ": expected one field \"" + value + "\", got two");
      *seen = true;
      field_ = value;
      return true;
    }
    key_ = std::move(value);
    if (state_ == State::kRoot && !names_.insert(key_).second) {
      throw HeaderError("expected distinct tensor names, got " + quoteName(key_) + " twice");
    }
    return true;
  }
  bool end_object() override {
    if (state_ == State::kTensor) {
      if (!hasDType_ || !hasShape_ || !hasOffsets_) {
        const char* missing = !hasDType_ ? "dtype" : !hasShape_ ? "shape" : "data_offsets";
        throw HeaderError(where() + ": expected dtype, shape and data_offsets, got no " + missing);
      }
      header_.tensors.push_back(std::move(tensor_));
      state_ = State::kRoot;
    } else {
      state_ = state_ == State::kMetadata ? State::kRoot : State::kEnd;
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || field_ == "dtype") return unexpected("an array");
    state_ = State::kArray;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    state_ = State::kTensor;
    if (field_ == "shape") {
      tensor_.shape = numbers_;
      return true;
    }
    if (numbers_.size() != 2 || numbers_[0] > numbers_[1]) {
      throw HeaderError(where() + ": expected data_offsets [begin, end] with begin <= end, got " +
                        (numbers_.size() > 8 ? std::to_string(numbers_.size()) + " numbers" : shapeText(numbers_)));
    }
    tensor_.begin = static_cast<uint64_t>(numbers_[0]);
    tensor_.end = static_cast<uint64_t>(numbers_[1]);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    // The library's own text may quote the file at length.
    throw HeaderError("expected a JSON header, got a syntax error at its byte " + std::to_string(position));
  }

 private:
  enum class State { kStart, kRoot, kMetadata, kTensor, kArray, kEnd };

  std::string where() const { return "tensor " + quoteName(tensor_.name); }

  [[noreturn]] bool unexpected(const char* what) const {
    const std::string got = std::string(", got ") + what;
    switch (state_) {
      case State::kRoot:
        throw HeaderError("expected an object for " + quoteName(key_) + got);
      case State::kMetadata:
        throw HeaderError("expected a string for " + quoteName(key_) + " in __metadata__" + got);
      case State::kTensor:
        throw HeaderError(where() + ": expected " + (field_ == "dtype" ? "a string" : "an array of integers") +
                          " for \"" + field_ + "\"" + got);
      case State::kArray:
        throw HeaderError(where() + ": expected integers in \"" + field_ + "\"" + got);
      default:
        throw HeaderError("expected a JSON object as the header" + got);
    }
  }

  State state_ = State::kStart;
  Header header_;
  HeaderTensor tensor_;
  std::string key_, field_;
  std::vector<int64_t> numbers_;
  std::unordered_set<std::string> names_;
  bool hasDType_ = false, hasShape_ = false, hasOffsets_ = false;
};

}  // namespace

int64_t shapeBytes(const std::vector<int64_t>& shape, DType dtype) {
  int64_t bytes = dtypeSize(dtype);
  for (int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return -1;
  }
  return bytes;
}

Header parseHeader(std::string_view text, uint64_t dataBytes) {
  // The format asks for the brace, and the parser would skip a byte order mark.
  if (text.empty() || text.front() != '{') throw HeaderError("expected a JSON header that starts with '{'");
  HeaderHandler handler;
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  Header header = handler.take();

  std::sort(header.tensors.begin(), header.tensors.end(), [](const HeaderTensor& a, const HeaderTensor& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t next = 0;
  for (const HeaderTensor& tensor : header.tensors) {
    const std::string where = "tensor " + quoteName(tensor.name);
    const std::string shape =
        tensor.shape.size() > 16 ? std::to_string(tensor.shape.size()) + " dimensions" : shapeText(tensor.shape);
    const int64_t bytes = shapeBytes(tensor.shape, tensor.dtype);
    if (bytes < 0) throw HeaderError(where + ": expected a size below 2^63 bytes, got the shape " + shape);
    if (static_cast<uint64_t>(bytes) != tensor.end - tensor.begin) {
      throw HeaderError(where + ": expected " + std::to_string(bytes) + " bytes for " + dtypeName(tensor.dtype) + " " +
                        shape + ", got data_offsets of " + std::to_string(tensor.end - tensor.begin) + " bytes");
    }
    if (tensor.begin != next) {
      throw HeaderError(where + ": expected data from offset " + std::to_string(next) +
                        " (no holes, no overlap), got " + std::to_string(tensor.begin));
    }
    next = tensor.end;
  }
  if (next != dataBytes) {
    throw HeaderError("expected " + std::to_string(next) + " bytes of data after the header, got " +
                      std::to_string(dataBytes) + (dataBytes < next ? " (the file is truncated)" : ""));
  }
  return header;
}

}  // namespace ddad
