#pragma once

namespace ddad::bench {

/// Times the features of `weights` for `batch` images of size x size, the whole and each kind of op, as JSON on stdout.
int runBackboneBench(const char* weights, int batch, int size, int threads, int rounds);

}  // namespace ddad::bench
