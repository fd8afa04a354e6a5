// Native benches, without Node.
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "kernel_bench.h"
#include "peer_worker.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "peer") == 0) return ddad::bench::runPeerWorker();
  if (argc >= 2 && std::strcmp(argv[1], "kernels") == 0)
    return ddad::bench::runKernelBench(argc > 2 ? std::atoi(argv[2]) : 0, argc > 3 ? std::atoi(argv[3]) : 9);
  std::cerr << "usage: ddad_bench peer                        answers the requests of bench/peers/run.mjs on stdin\n"
               "       ddad_bench kernels [THREADS] [ROUNDS]  convolution kernels side by side\n";
  return 2;
}
