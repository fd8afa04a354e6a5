#pragma once
// Shapes and names as messages show them.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ddad {

/// "[2, 3, 64, 64]"; "[]" for a scalar.
std::string shapeText(std::span<const int64_t> shape);

/// A name from a file for use in a message: in quotes, cut to a readable length, control characters replaced.
std::string quoteName(std::string_view name);

}  // namespace ddad
