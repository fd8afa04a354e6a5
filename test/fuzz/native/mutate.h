#pragma once
// Mutations that keep inputs well-formed most of the time, so that what lies behind the parsers is reached.
#include <cstddef>
#include <cstdint>
#include <string>

#include "target.h"

namespace ddad::fuzz {

/// Mutates `bytes` into at most `limit` of them; `anyhow` mutates a buffer of `size` bytes without knowing what it is.
std::string mutated(Format format, const std::string& bytes, size_t limit, uint32_t seed,
                    size_t (*anyhow)(uint8_t* data, size_t size, size_t limit));

}  // namespace ddad::fuzz
