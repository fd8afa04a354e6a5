// Native benches, without Node: `ddad_bench peer` is our side of bench/peers.
#include <cstring>
#include <iostream>

#include "peer_worker.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "peer") == 0) return ddad::bench::runPeerWorker();
  std::cerr << "usage: ddad_bench peer    answers the requests of bench/peers/run.mjs on stdin\n";
  return 2;
}
