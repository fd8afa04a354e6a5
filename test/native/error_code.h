#pragma once
#include <functional>
#include <string>

#include "base/error.h"

namespace ddad::testing {

/// Code of the Error that `f` throws; "no error" where it throws none.
inline std::string codeOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.code();
  }
  return "no error";
}

}  // namespace ddad::testing
