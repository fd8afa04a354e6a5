#pragma once
// Fields of a configuration, checked: every failure names the field, what was expected and what came.
#include <cstdint>
#include <string>
#include <string_view>

#include "nlohmann/json.hpp"

namespace ddad {

/// JSON that came in a file; discarded where it is none, or nests deeper than any configuration does: copying,
/// comparing and writing a document recurse, so that depth costs stack.
nlohmann::json parseJson(std::string_view text);

/// The object at `name`; throws ERR_CONFIG where it is missing or no object.
const nlohmann::json& requireObject(const nlohmann::json& json, const char* name);
/// An integer within [low, high]; `fallback` where the field is missing or null.
int64_t integerField(const nlohmann::json& json, const char* name, int64_t low, int64_t high, int64_t fallback);
/// The same, required.
int64_t integerField(const nlohmann::json& json, const char* name, int64_t low, int64_t high);
double numberField(const nlohmann::json& json, const char* name, double low, double high, double fallback);
bool booleanField(const nlohmann::json& json, const char* name, bool fallback);
std::string stringField(const nlohmann::json& json, const char* name, const std::string& fallback);

}  // namespace ddad
