#pragma once
// Takes the place of OpenMP's header in the fuzz build, which computes on one thread: clang comes without that runtime.
inline int omp_get_thread_num() { return 0; }
inline int omp_in_parallel() { return 0; }
inline void omp_set_num_threads(int) {}
