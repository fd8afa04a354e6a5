#include "file/json_fields.h"

#include <cmath>

#include "base/error.h"

namespace ddad {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 100;  // more than the binding takes, so what is written can be read

/// By its brackets alone; right for every text that is JSON.
bool tooDeep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\')
      ++i;
    else if (c == '"')
      quoted = !quoted;
    else if (!quoted && (c == '[' || c == '{') && ++depth > kMaxDepth)
      return true;
    else if (!quoted && (c == ']' || c == '}'))
      --depth;
  }
  return false;
}

const json* find(const json& j, const char* name) {
  if (!j.is_object()) return nullptr;
  const auto it = j.find(name);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

[[noreturn]] void fail(const char* name, const std::string& expected, const json* came) {
  throw Error("ERR_CONFIG", std::string(name) + ": expected " + expected + ", got " +
                                (came ? came->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80)
                                      : std::string("nothing")));
}

int64_t checkedInteger(const json* value, const char* name, int64_t low, int64_t high) {
  const std::string range = "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  if (!value || !value->is_number_integer()) fail(name, range, value);
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(high)) fail(name, range, value);
  const auto n = value->get<int64_t>();
  if (n < low || n > high) fail(name, range, value);
  return n;
}

}  // namespace

json parseJson(std::string_view text) {
  return tooDeep(text) ? json(json::value_t::discarded) : json::parse(text, nullptr, false);
}

const json& requireObject(const json& j, const char* name) {
  const json* value = find(j, name);
  if (!value || !value->is_object()) fail(name, "an object", value);
  return *value;
}

int64_t integerField(const json& j, const char* name, int64_t low, int64_t high, int64_t fallback) {
  const json* value = find(j, name);
  return value ? checkedInteger(value, name, low, high) : fallback;
}

int64_t integerField(const json& j, const char* name, int64_t low, int64_t high) {
  return checkedInteger(find(j, name), name, low, high);
}

double numberField(const json& j, const char* name, double low, double high, double fallback) {
  const json* value = find(j, name);
  if (!value) return fallback;
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high))
    fail(name, "a number from " + json(low).dump() + " to " + json(high).dump(), value);
  return value->get<double>();
}

bool booleanField(const json& j, const char* name, bool fallback) {
  const json* value = find(j, name);
  if (!value) return fallback;
  if (!value->is_boolean()) fail(name, "true or false", value);
  return value->get<bool>();
}

std::string stringField(const json& j, const char* name, const std::string& fallback) {
  const json* value = find(j, name);
  if (!value) return fallback;
  if (!value->is_string()) fail(name, "a string", value);
  return value->get<std::string>();
}

}  // namespace ddad
