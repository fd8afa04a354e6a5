#pragma once
// A flag that another thread raises to stop a long call; the engine reads it between ops, and between the pieces of
// its loops.
#include <atomic>

#include "base/error.h"

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

/// While it lives, what the flag stops includes the loops of this thread (device/parallel.h) and everything that calls
/// checkCancelled. Null: nothing stops what must be done as a whole or not at all.
class CancelScope {
 public:
  explicit CancelScope(const Cancel* cancel) noexcept : before_(current()) { slot() = cancel; }
  ~CancelScope() { slot() = before_; }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

  static const Cancel* current() noexcept { return slot(); }

 private:
  static const Cancel*& slot() noexcept {
    static thread_local const Cancel* cancel = nullptr;
    return cancel;
  }
  const Cancel* before_;
};

/// Throws ERR_ABORTED where the work of this thread is to stop.
inline void checkCancelled() {
  if (const Cancel* cancel = CancelScope::current()) cancel->check();
}

}  // namespace ddad
