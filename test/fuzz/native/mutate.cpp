#include "mutate.h"

#include <cstring>
#include <iterator>
#include <random>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"

namespace ddad::fuzz {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMostText = 1 << 20;

class Mutator {
 public:
  Mutator(uint32_t seed, size_t (*anyhow)(uint8_t*, size_t, size_t)) : random_(seed), anyhow_(anyhow) {}

  std::string bytes(std::string text, size_t limit) {
    const size_t size = text.size();
    text.resize(std::max(size, limit));
    text.resize(anyhow_(reinterpret_cast<uint8_t*>(text.data()), size, text.size()));
    return text;
  }

  /// A JSON text with a value, a key or a list changed; the bytes of it now and then, and where it is none.
  std::string jsonText(const std::string& text, size_t limit) {
    ordered_json document = parsed(text);
    if (document.is_discarded() || below(10) == 0) return bytes(text, limit);
    for (uint32_t i = 0; i <= below(3); ++i) change(document);
    return document.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }

  std::string safetensors(const std::string& file, size_t limit) {
    uint64_t length = 0;
    if (file.size() >= kLengthBytes) std::memcpy(&length, file.data(), kLengthBytes);
    if (file.size() < kLengthBytes || length > file.size() - kLengthBytes || below(20) == 0) return bytes(file, limit);
    std::string header = file.substr(kLengthBytes, length), data = file.substr(kLengthBytes + length);
    ordered_json document = parsed(header);
    if (!document.is_object() || document.empty() || below(10) == 0) {
      header = bytes(header, limit - kLengthBytes);
    } else {
      for (uint32_t i = 0; i <= below(2); ++i) changeHeader(document, data, limit);
      header = document.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    }
    length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), kLengthBytes) + header + data;
  }

 private:
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  static ordered_json parsed(const std::string& text) {
    // writing recurses, hence the depth
    const auto shallow = [](int depth, json::parse_event_t, ordered_json&) { return depth < 500; };
    if (text.size() > kMostText) return ordered_json(json::value_t::discarded);
    return ordered_json::parse(text, shallow, false);
  }

  ordered_json value() {
    static const char* const kValues[] = {"0",
                                          "1",
                                          "-1",
                                          "2",
                                          "3",
                                          "7",
                                          "8",
                                          "16",
                                          "32",
                                          "64",
                                          "255",
                                          "4096",
                                          "4097",
                                          "65536",
                                          "2147483647",
                                          "2147483648",
                                          "4294967295",
                                          "9007199254740993",
                                          "4611686018427387904",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "18446744073709551615",
                                          "-9223372036854775808",
                                          "1e308",
                                          "-1e308",
                                          "1e-320",
                                          "0.5",
                                          "1.0",
                                          "null",
                                          "true",
                                          "false",
                                          "\"\"",
                                          "\"original\"",
                                          "\"respaced\"",
                                          "\"ddim2\"",
                                          "\"cosine\"",
                                          "\"linear\"",
                                          "\"per-image\"",
                                          "\"calibration\"",
                                          "\"none\"",
                                          "\"rgb\"",
                                          "\"feature\"",
                                          "\"10,20\"",
                                          "[]",
                                          "{}",
                                          "[0]",
                                          "[1,1,1]",
                                          "[2,4]",
                                          "[2,4,8,16]",
                                          "[[[]]]",
                                          "\"F32\"",
                                          "\"F16\"",
                                          "\"I32\"",
                                          "\"\\u0000\"",
                                          "\"\\uD83D\\uDE00\""};
    return ordered_json::parse(kValues[below(std::size(kValues))]);
  }

  /// Any node of the document.
  ordered_json& node(ordered_json& from) {
    ordered_json* at = &from;
    while (at->is_structured() && !at->empty() && below(8) != 0)
      at = &*std::next(at->begin(), below(static_cast<uint32_t>(at->size())));
    return *at;
  }

  void change(ordered_json& document) {
    ordered_json& at = node(document);
    const uint32_t what = below(12);
    if (at.is_number() && what < 6) {
      int64_t old = at.is_number_float() ? 0 : at.get<int64_t>();
      if (old < -(int64_t{1} << 60) || old > int64_t{1} << 60) old = 0;
      const int64_t steps[] = {old + 1, old - 1, old * 2, old / 2, -old, old + 32};
      at = steps[what];
    } else if (at.is_string() && what < 4) {
      at = bytes(at.get<std::string>(), at.get_ref<const std::string&>().size() + 16);
    } else if (at.is_array() && !at.empty() && what < 6) {
      ordered_json copy = at[below(static_cast<uint32_t>(at.size()))];
      if (what < 4 && at.size() < 4096)
        for (size_t i = what < 3 ? 1 : at.size(); i > 0; --i) at.push_back(copy);
      else
        at.erase(below(static_cast<uint32_t>(at.size())));
    } else if (at.is_object() && !at.empty() && what < 8) {
      const auto entry = std::next(at.begin(), below(static_cast<uint32_t>(at.size())));
      if (what < 3)
        at.erase(entry.key());
      else if (what < 5)
        at[bytes(entry.key(), entry.key().size() + 8)] = ordered_json(entry.value());
      else
        entry.value() = value();
    } else if (what == 11) {
      ordered_json copy = node(document);
      at = std::move(copy);
    } else if (what == 10) {
      for (uint32_t depth = below(80); depth > 0; --depth) at = ordered_json::array({std::move(at)});
    } else {
      at = value();
    }
  }

  /// Something about one tensor or the metadata; offsets are then made to fit, mostly.
  void changeHeader(ordered_json& header, std::string& data, size_t limit) {
    if (header.empty() || !header.is_object()) return;
    const auto entry = std::next(header.begin(), below(static_cast<uint32_t>(header.size())));
    const uint32_t what = below(16);
    if (what < 5 && header.contains("__metadata__") && header["__metadata__"].is_object()) {
      ordered_json& metadata = header["__metadata__"];
      for (const char* name : {"config", "spec"}) {
        if (!metadata.contains(name) || !metadata[name].is_string() || what == 0) continue;
        metadata[name] = jsonText(metadata[name].get<std::string>(), limit / 2);
        return;
      }
      change(metadata);
    } else if (what < 7) {
      data = bytes(data, data.size() + 64);
    } else if (what < 9) {
      header.erase(entry.key());
    } else if (what < 10 && header.size() > 1) {
      const auto other = std::next(header.begin(), below(static_cast<uint32_t>(header.size())));
      std::swap(entry.value(), other.value());
    } else if (what < 11) {
      header[bytes(entry.key(), entry.key().size() + 8)] = ordered_json(entry.value());
    } else if (entry.value().is_object() && entry.value().contains("shape") && what < 15) {
      change(what < 14 ? entry.value()["shape"] : entry.value());
    } else {
      change(header);
    }
    if (below(8) != 0) fitOffsets(header);
  }

  static void fitOffsets(ordered_json& header) {
    static const std::pair<const char*, int64_t> kSizes[] = {
        {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"I16", 2},
        {"I8", 1},  {"U64", 8}, {"U32", 4}, {"U16", 2},  {"U8", 1},  {"BOOL", 1}};
    int64_t offset = 0;
    for (auto& [name, tensor] : header.items()) {
      if (name == "__metadata__" || !tensor.is_object() || !tensor.contains("shape") || !tensor["shape"].is_array())
        continue;
      int64_t bytes = 0;
      for (const auto& [dtype, size] : kSizes)
        if (tensor.contains("dtype") && tensor["dtype"] == dtype) bytes = size;
      for (const ordered_json& extent : tensor["shape"])
        if (!extent.is_number_integer() || __builtin_mul_overflow(bytes, extent.get<int64_t>(), &bytes)) bytes = 0;
      int64_t end = 0;
      if (bytes < 0 || __builtin_add_overflow(offset, bytes, &end)) return;
      tensor["data_offsets"] = {offset, end};
      offset = end;
    }
  }

  std::minstd_rand random_;
  size_t (*anyhow_)(uint8_t*, size_t, size_t);
};

}  // namespace

std::string mutated(Format format, const std::string& bytes, size_t limit, uint32_t seed,
                    size_t (*anyhow)(uint8_t*, size_t, size_t)) {
  Mutator mutator(seed, anyhow);
  std::string next = format == Format::kText   ? mutator.bytes(bytes, limit)
                     : format == Format::kJson ? mutator.jsonText(bytes, limit)
                                               : mutator.safetensors(bytes, limit);
  if (next.size() > limit) next.resize(limit);
  return next;
}

}  // namespace ddad::fuzz
