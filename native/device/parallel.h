#pragma once
// Loops over the compute threads. Work is cut by the caller into pieces that do not depend on the thread count, so
// sums come out the same, bit for bit, however many threads there are.
#include <omp.h>

#include <cstdint>

#include "base/cancel.h"
#include "device/thread_team.h"

namespace ddad {

/// Runs f(i, worker) for 0 <= i < n on up to `threads` threads, contiguous shares; 0 <= worker < threads tells which
/// scratch memory is free. f must not throw. Throws ERR_ABORTED where the thread's CancelScope says so; pieces are then
/// left out.
template <class F>
void parallelForWorker(int threads, int64_t n, F&& f) {
  const Cancel* const cancel = CancelScope::current();
  if (threads <= 1 || n <= 1) {
    for (int64_t i = 0; i < n; ++i) {
      if (cancel) cancel->check();
      f(i, 0);
    }
    return;
  }
  [[maybe_unused]] const int team = teamSize(threads);
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t i = 0; i < n; ++i)
    if (!cancel || !cancel->requested()) f(i, omp_get_thread_num());
  if (cancel) cancel->check();
}

/// The same without the worker's number.
template <class F>
void parallelFor(int threads, int64_t n, F&& f) {
  parallelForWorker(threads, n, [&](int64_t i, int) { f(i); });
}

}  // namespace ddad
