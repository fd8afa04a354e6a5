#include "device/thread_team.h"

#include <omp.h>
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

namespace ddad {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kAskAgain{1};  // after a refusal: asking takes time, and there are many regions a second

/// Threads that wait until all of them have been made.
struct Gate {
  std::mutex mutex;
  std::condition_variable opened;
  bool open = false;
};

void* waitAtGate(void* argument) {
  auto& gate = *static_cast<Gate*>(argument);
  std::unique_lock lock(gate.mutex);
  gate.opened.wait(lock, [&] { return gate.open; });
  return nullptr;
}

/// How many of `wanted` more threads there can be at once, found by making them.
int moreThreads(int wanted) {
  Gate gate;
  std::vector<pthread_t> made;
  for (int i = 0; i < wanted; ++i) {
    pthread_t thread{};
    if (pthread_create(&thread, nullptr, waitAtGate, &gate) != 0) break;
    made.push_back(thread);
  }
  {
    const std::lock_guard lock(gate.mutex);
    gate.open = true;
  }
  gate.opened.notify_all();
  for (const pthread_t thread : made) pthread_join(thread, nullptr);
  return static_cast<int>(made.size());
}

}  // namespace

int teamSize(int threads) {
  // OpenMP keeps the threads of the last region for the next, but for those beyond the number that this one has.
  static thread_local int alive = 1;
  static thread_local Clock::time_point refused{};
  if (threads <= alive) return alive = threads < 1 ? 1 : threads;
  if (omp_in_parallel()) return threads;  // of one thread, whatever is asked for
  if (refused != Clock::time_point{} && Clock::now() - refused < kAskAgain) return alive;
  const int more = moreThreads(threads - alive);
  refused = more < threads - alive ? Clock::now() : Clock::time_point{};
  return alive += more;
}

void useTeam(int threads) { omp_set_num_threads(teamSize(threads)); }

}  // namespace ddad
