#pragma once
// The checks of what JavaScript passes, in one place. Each throws Error("ERR_ARGUMENT") that says what was expected and
// what came, naming it as `what` ("step: lr", say).
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "bind/napi/napi_base.h"
#include "device/device.h"
#include "nlohmann/json.hpp"

namespace ddad::bind {

class CancelToken;

/// What a value is, in a few words for an error message. Runs no JavaScript.
std::string describe(const Napi::Value& value);

[[noreturn]] void throwArgument(const std::string& what, const std::string& expected, const std::string& got);

std::string expectString(const Napi::Value& value, const std::string& what);
/// A file's name: not empty, and without the NUL at which the operating system would cut it off.
std::string expectPath(const Napi::Value& value, const std::string& what);
/// A string that holds a JSON object.
nlohmann::json expectJson(const Napi::Value& value, const std::string& what);
double expectNumber(const Napi::Value& value, const std::string& what, double min, double max);
int expectInteger(const Napi::Value& value, const std::string& what, int min, int max);
/// The elements of an array of 1 to `most`.
std::vector<Napi::Value> expectArray(const Napi::Value& value, const std::string& what, uint32_t most);
CancelToken& expectToken(const Napi::Value& value, const std::string& what);

/// The elements of a typed array: valid until JavaScript runs again, so copy them.
struct ArrayView {
  napi_typedarray_type type;
  size_t length;        // elements
  size_t elementBytes;  // of one
  const void* data;

  template <class T>
  std::vector<T> copy() const {
    const auto* first = static_cast<const T*>(data);
    return length == 0 ? std::vector<T>() : std::vector<T>(first, first + length * elementBytes / sizeof(T));
  }
};

/// A typed array of one of `types` over memory that no other thread can write: not shared, not detached.
ArrayView expectTypedArray(const Napi::Value& value, const std::string& what,
                           std::initializer_list<napi_typedarray_type> types);

/// {"device","threads","precision"}, all optional.
struct DeviceOptions {
  std::string device = "auto";
  int threads = 0;
  std::string precision = "float32";

  /// See openDevice.
  std::shared_ptr<Device> open() const;
};
DeviceOptions deviceOptions(const nlohmann::json& options, const std::string& what);
std::string textOption(const nlohmann::json& options, const char* name, const std::string& fallback,
                       const std::string& what);

}  // namespace ddad::bind
