#pragma once
// OpenMP ends the process where the system refuses it a thread: so the threads are asked for before it wants them.

namespace ddad {

/// How many of `threads` threads, the calling one included, a parallel region of this thread can have: fewer where the
/// system gives no more, at least 1.
int teamSize(int threads);

/// Sets the number for libraries that open regions of their own (oneDNN).
void useTeam(int threads);

}  // namespace ddad
