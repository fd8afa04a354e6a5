#include "bind/napi/arguments.h"

#include <cmath>
#include <cstdio>
#include <string_view>

#include "base/error.h"
#include "bind/napi/cancel_token.h"
#include "bind/napi/resource.h"
#include "device/open_device.h"

namespace ddad::bind {
namespace {

// Deeper JSON than any configuration has. Writing JSON recurses, so depth costs stack.
constexpr int kMaxJsonDepth = 64;

struct ElementType {
  const char* name;
  size_t bytes;
};

ElementType elementType(int type) {
  switch (type) {
    case napi_int8_array:
      return {"Int8Array", 1};
    case napi_uint8_array:
      return {"Uint8Array", 1};
    case napi_uint8_clamped_array:
      return {"Uint8ClampedArray", 1};
    case napi_int16_array:
      return {"Int16Array", 2};
    case napi_uint16_array:
      return {"Uint16Array", 2};
    case napi_int32_array:
      return {"Int32Array", 4};
    case napi_uint32_array:
      return {"Uint32Array", 4};
    case napi_float32_array:
      return {"Float32Array", 4};
    case napi_float64_array:
      return {"Float64Array", 8};
    case napi_bigint64_array:
      return {"BigInt64Array", 8};
    case napi_biguint64_array:
      return {"BigUint64Array", 8};
    default:
      return {"typed array of another type", 1};
  }
}

/// "a Float32Array", "an Int32Array".
std::string named(int type) {
  const std::string name = elementType(type).name;
  return (name[0] == 'I' ? "an " : "a ") + name;
}

struct TypedArrayInfo {
  int type = -1;
  size_t length = 0;
  void* data = nullptr;
  napi_value buffer = nullptr;
};

// Through the C interface: node-addon-api's classes assert that the buffer is an ArrayBuffer, which a shared one is
// not.
TypedArrayInfo typedArrayInfo(const Napi::Value& value) {
  TypedArrayInfo info;
  napi_typedarray_type type = static_cast<napi_typedarray_type>(-1);  // of a type that this N-API does not know
  size_t offset = 0;
  const napi_status status =
      napi_get_typedarray_info(value.Env(), value, &type, &info.length, &info.data, &info.buffer, &offset);
  if (status != napi_ok) throw Napi::Error::New(value.Env());
  info.type = static_cast<int>(type);
  return info;
}

std::string numberText(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

}  // namespace

std::string describe(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number:
      return numberText(value.As<Napi::Number>().DoubleValue());
    case napi_string:
      return "a string";
    case napi_symbol:
      return "a symbol";
    case napi_bigint:
      return "a bigint";
    case napi_function:
      return "a function";
    default:
      break;
  }
  if (value.IsTypedArray()) return named(typedArrayInfo(value).type);
  return value.IsArray() ? "an array" : "an object";
}

void throwArgument(const std::string& what, const std::string& expected, const std::string& got) {
  throw Error("ERR_ARGUMENT", what + ": expected " + expected + ", got " + got);
}

std::string expectString(const Napi::Value& value, const std::string& what) {
  if (!value.IsString()) throwArgument(what, "a string", describe(value));
  return value.As<Napi::String>().Utf8Value();
}

std::string expectPath(const Napi::Value& value, const std::string& what) {
  std::string path = expectString(value, what);
  if (path.empty()) throwArgument(what, "the name of a file", "an empty string");
  if (path.find('\0') != std::string::npos) throwArgument(what, "the name of a file", "a string with a NUL in it");
  return path;
}

nlohmann::json expectJson(const Napi::Value& value, const std::string& what) {
  const std::string text = expectString(value, what);
  const auto limitDepth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxJsonDepth)
      throwArgument(what, "JSON nested at most " + std::to_string(kMaxJsonDepth) + " deep", "deeper");
    return true;
  };
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text, limitDepth);
  } catch (const nlohmann::json::exception& error) {
    throwArgument(what, "JSON", std::string("something else: ") + error.what());
  }
  if (!json.is_object()) throwArgument(what, "a JSON object", std::string("a JSON ") + json.type_name());
  return json;
}

double expectNumber(const Napi::Value& value, const std::string& what, double min, double max) {
  const std::string expected = "a number from " + numberText(min) + " to " + numberText(max);
  if (!value.IsNumber()) throwArgument(what, expected, describe(value));
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= min && number <= max)) throwArgument(what, expected, describe(value));  // NaN fails too
  return number;
}

int expectInteger(const Napi::Value& value, const std::string& what, int min, int max) {
  const std::string expected = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  if (!value.IsNumber()) throwArgument(what, expected, describe(value));
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= min && number <= max) || number != std::floor(number)) throwArgument(what, expected, describe(value));
  return static_cast<int>(number);
}

std::vector<Napi::Value> expectArray(const Napi::Value& value, const std::string& what, uint32_t most) {
  if (!value.IsArray()) throwArgument(what, "an array", describe(value));
  const auto array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  if (length < 1 || length > most)
    throwArgument(what, "1 to " + std::to_string(most) + " elements", std::to_string(length));
  std::vector<Napi::Value> elements;
  for (uint32_t i = 0; i < length; ++i) elements.push_back(array.Get(i));
  return elements;
}

CancelToken& expectToken(const Napi::Value& value, const std::string& what) {
  CancelToken* token = CancelToken::from(value);
  if (token == nullptr) throwArgument(what, "a CancelToken", describe(value));
  return *token;
}

ArrayView expectTypedArray(const Napi::Value& value, const std::string& what,
                           std::initializer_list<napi_typedarray_type> types) {
  std::string expected;
  size_t left = types.size();
  for (const napi_typedarray_type type : types) {
    if (expected.empty())
      expected = named(type);
    else
      expected += (left > 1 ? ", " : " or ") + std::string(elementType(type).name);
    --left;
  }
  if (!value.IsTypedArray()) throwArgument(what, expected, describe(value));
  const TypedArrayInfo info = typedArrayInfo(value);
  bool allowed = false;
  for (const napi_typedarray_type type : types) allowed = allowed || type == info.type;
  if (!allowed) throwArgument(what, expected, describe(value));

  bool plain = false;
  napi_is_arraybuffer(value.Env(), info.buffer, &plain);
  if (!plain) throwArgument(what, expected + " of its own memory", "one over a SharedArrayBuffer");
  bool detached = false;
  napi_is_detached_arraybuffer(value.Env(), info.buffer, &detached);
  if (detached) throwArgument(what, expected, "one whose ArrayBuffer is detached");
  return {static_cast<napi_typedarray_type>(info.type), info.length, elementType(info.type).bytes, info.data};
}

std::shared_ptr<Device> DeviceOptions::open() const { return openDevice(device, threads, precisionOf(precision)); }

DeviceOptions deviceOptions(const nlohmann::json& options, const std::string& what) {
  DeviceOptions parsed;
  parsed.device = textOption(options, "device", parsed.device, what);
  parsed.precision = textOption(options, "precision", parsed.precision, what);
  const auto threads = options.find("threads");
  if (threads == options.end()) return parsed;
  const bool integer = threads->is_number_unsigned() && threads->get<uint64_t>() <= 1024;
  if (!integer) throwArgument(what + ".threads", "an integer from 0 to 1024", toText(*threads));
  parsed.threads = threads->get<int>();
  return parsed;
}

std::string textOption(const nlohmann::json& options, const char* name, const std::string& fallback,
                       const std::string& what) {
  const auto option = options.find(name);
  if (option == options.end()) return fallback;
  if (!option->is_string()) throwArgument(what + "." + name, "a string", toText(*option));
  auto text = option->get<std::string>();
  if (text.find('\0') != std::string::npos) throwArgument(what + "." + name, "text", "a string with a NUL in it");
  return text;
}

}  // namespace ddad::bind
