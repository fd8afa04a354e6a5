#pragma once

namespace ddad::bench {

/// Answers requests on stdin until "quit" or its end; the process's exit code.
int runPeerWorker();

}  // namespace ddad::bench
