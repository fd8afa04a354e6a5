// Native benches, without Node.
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "backbone_bench.h"
#include "kernel_bench.h"
#include "peer_worker.h"
#include "score_dump.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "peer") == 0) return ddad::bench::runPeerWorker();
  if (argc >= 2 && std::strcmp(argv[1], "kernels") == 0)
    return ddad::bench::runKernelBench(argc > 2 ? std::atoi(argv[2]) : 0, argc > 3 ? std::atoi(argv[3]) : 9);
  if (argc == 4 && std::strcmp(argv[1], "scores") == 0) return ddad::bench::runScoreDump(argv[2], argv[3]);
  if (argc >= 3 && std::strcmp(argv[1], "backbone") == 0) {
    const auto number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
    return ddad::bench::runBackboneBench(argv[2], number(3, 1), number(4, 224), number(5, 0), number(6, 15));
  }
  std::cerr
      << "usage: ddad_bench peer                        answers the requests of bench/peers/run.mjs on stdin\n"
         "       ddad_bench kernels [THREADS] [ROUNDS]  convolution kernels side by side\n"
         "       ddad_bench backbone WEIGHTS [BATCH] [SIZE] [THREADS] [ROUNDS]  features of a backbone, op by op\n"
         "       ddad_bench scores MODEL STEP,STEP…     what the scores of the images on stdin are made of\n";
  return 2;
}
