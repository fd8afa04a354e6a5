// Threads that the system refuses, and loops that an abort ends.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"
#include "device/open_device.h"
#include "device/parallel.h"
#include "doctest.h"
#include "error_code.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

/// The exit status of what runs in a child whose memory ends `bytes` beyond what it has.
template <class F>
int withMemory(rlim_t bytes, const F& run) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t most = pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + bytes;
    const rlimit limit{most, most};
    ::setrlimit(RLIMIT_AS, &limit);
    int status = 1;
    std::thread([&] { status = run(); }).join();  // OpenMP's threads of this one are the parent's
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("a region has as many threads as the system gives, and the process goes on") {
  // stacks of 8 MiB: room for some of 60 threads
  CHECK(withMemory(rlim_t{64} << 20, [] {
          std::vector<int> counts(60);
          parallelForWorker(60, 60, [&](int64_t i, int) { counts[static_cast<size_t>(i)] += 1; });
          for (const int count : counts)
            if (count != 1) return 1;
          const int team = teamSize(60);
          return team >= 1 && team < 60 ? 0 : 2;
        }) == 0);
}
#endif

TEST_CASE("no device has more threads than there are processors") {
  const int most = availableProcessors();
  CHECK(openDevice("cpu", 1024)->threads() == most);
  CHECK(openDevice("cpu", 0)->threads() == most);
  CHECK(openDevice("cpu", 1)->threads() == 1);
  CHECK(codeOf([] { openDevice("cpu", 1025); }) == "ERR_OPTION");
}

TEST_CASE("an abort ends a loop, on one thread and on several") {
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    Cancel cancel;
    std::atomic<int64_t> done{0};
    std::thread other([&] {
      while (done < 3) std::this_thread::yield();
      cancel.request();
    });
    const CancelScope scope(&cancel);
    CHECK(codeOf([&] {
            parallelFor(threads, 1'000'000, [&](int64_t) {
              ++done;
              std::this_thread::sleep_for(std::chrono::microseconds(100));
            });
          }) == "ERR_ABORTED");
    other.join();
    CHECK(done < 500'000);
    // what must be done as a whole is
    const CancelScope whole(nullptr);
    std::atomic<int> all{0};
    parallelFor(threads, 100, [&](int64_t) { ++all; });
    CHECK(all == 100);
  }
}
