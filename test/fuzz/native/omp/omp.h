#pragma once
// Takes the place of OpenMP's header in the fuzz build, which computes on one thread: clang comes without that runtime.
inline int omp_get_thread_num() { return 0; }
