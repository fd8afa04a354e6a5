#pragma once
// Loops over the compute threads. Work is cut by the caller into pieces that do not depend on the thread count, so
// sums come out the same, bit for bit, however many threads there are.
#include <omp.h>

#include <cstdint>

namespace ddad {

/// Runs f(i, worker) for 0 <= i < n on up to `threads` threads, contiguous shares; 0 <= worker < threads tells which
/// scratch memory is free. f must not throw.
template <class F>
void parallelForWorker(int threads, int64_t n, F&& f) {
  if (threads <= 1 || n <= 1) {
    for (int64_t i = 0; i < n; ++i) f(i, 0);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; ++i) f(i, omp_get_thread_num());
}

/// The same without the worker's number.
template <class F>
void parallelFor(int threads, int64_t n, F&& f) {
  parallelForWorker(threads, n, [&](int64_t i, int) { f(i); });
}

}  // namespace ddad
