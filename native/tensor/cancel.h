#pragma once
// A flag that another thread raises to stop a long call; the engine reads it between ops.
#include <atomic>

#include "tensor/error.h"

namespace ddad {

class Cancel {
 public:
  void request() noexcept { flag_.store(true, std::memory_order_relaxed); }
  bool requested() const noexcept { return flag_.load(std::memory_order_relaxed); }
  /// Throws Error("ERR_ABORTED") once the flag is up.
  void check() const {
    if (requested()) throw Error("ERR_ABORTED", "the operation was aborted");
  }

 private:
  std::atomic<bool> flag_{false};
};

}  // namespace ddad
