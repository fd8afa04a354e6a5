#pragma once
// Every failure that leaves the engine is an Error: a stable code for programs and a sentence for people.
#include <stdexcept>
#include <string>
#include <utility>

namespace ddad {

class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const noexcept { return code_; }

 private:
  std::string code_;
};

}  // namespace ddad
