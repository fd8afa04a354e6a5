#pragma once
// Times of something that is done again and again.
#include <chrono>
#include <cstdint>

#include "base/cancel.h"

namespace ddad {

class Stopwatch {
 public:
  /// Seconds since it was made.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// How long something is repeated: at least `samples` times, and on until `seconds` have passed.
struct Repetition {
  int64_t samples = 3;
  double seconds = 1;
};

/// Runs `f` once to warm up, then as often as `repetition` says. Throws ERR_ABORTED between two runs.
template <class F>
void repeat(const Repetition& repetition, const Cancel& cancel, F&& f) {
  cancel.check();
  f(true);
  const Stopwatch watch;
  for (int64_t i = 0; i < repetition.samples || watch.seconds() < repetition.seconds; ++i) {
    cancel.check();
    f(false);
  }
}

}  // namespace ddad
