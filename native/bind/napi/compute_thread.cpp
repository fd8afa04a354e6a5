#include "bind/napi/compute_thread.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "dnnl.h"

namespace ddad::bind {
namespace {

// How long a process that exits waits for the running task. Tasks look at their Cancel between two operations and file
// writes are short, so this is only ever reached when something hangs.
constexpr std::chrono::seconds kExitWait{10};

class FunctionTask final : public ComputeTask {
 public:
  explicit FunctionTask(std::function<void()> function) : function_(std::move(function)) {}
  void run() noexcept override { function_(); }

 private:
  std::function<void()> function_;
};

// Node unloads an addon with the last worker that used it. Our thread and those of OpenMP run on, so the code stays.
void keepLoaded() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&keepLoaded), &info) != 0 && info.dli_fname != nullptr)
    dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

// Signals are for Node's threads. Those that a fault raises stay, and the one that V8's profiler sends to a thread.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF}) sigdelset(&blocked, signal);
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

// JavaScript's thread is rarely busy and must not wait for a processor then: with all of them computing it waited 15 ms
// at the 99th percentile, 8 ms when the engine's threads stand back. OpenMP's threads get what their maker has.
void lowerPriority() {
#ifdef __linux__
  const char* value = std::getenv("DDAD_NICE");  // checked by whoever loads the addon
  const int nice = value == nullptr ? 5 : std::atoi(value);
  // Of this thread alone, and never to a higher priority than its process was given; failing is no error.
  if (getpriority(PRIO_PROCESS, 0) < nice) setpriority(PRIO_PROCESS, 0, nice);
#endif
}

}  // namespace

ComputeThread& ComputeThread::instance() {
  // Never destroyed: objects that V8 collects while the process exits still hand their engines to it.
  static ComputeThread* const thread = new ComputeThread;
  return *thread;
}

void ComputeThread::post(std::function<void()> function) { post(std::make_shared<FunctionTask>(std::move(function))); }

void ComputeThread::post(std::shared_ptr<ComputeTask> task) {
  {
    std::lock_guard lock(mutex_);
    if (!started_) start();
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
}

bool ComputeThread::remove(const ComputeTask* task) {
  std::shared_ptr<ComputeTask> removed;  // dies after the lock: what it holds may post again
  std::lock_guard lock(mutex_);
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    if (it->get() != task) continue;
    removed = std::move(*it);
    queue_.erase(it);
    return true;
  }
  return false;
}

void ComputeThread::waitUntilLeft(const ComputeTask* task) {
  std::unique_lock lock(mutex_);
  left_.wait(lock, [&] { return running_.get() != task; });
}

void ComputeThread::start() {
  keepLoaded();
  // exit() runs the destructors of oneDNN and OpenMP: stop before them. Mostly the exit event of `process` has done so;
  // this is for those who call exit() without it. What is registered later runs earlier, so oneDNN's cache and settings
  // have to exist first.
  int capacity = 0;
  dnnl_get_primitive_cache_capacity(&capacity);
  dnnl_get_effective_cpu_isa();
  dnnl_get_cpu_isa_hints();
  process_ = getpid();
  const BlockedSignals blocked;
  try {
    std::thread([this] { loop(); }).detach();
  } catch (const std::system_error& error) {
    throw Error("ERR_DEVICE", std::string("cannot start the compute thread: ") + error.what() +
                                  "; raise the limit on threads (ulimit -u, pids.max)");
  }
  std::atexit([] { instance().stopForExit(); });
  started_ = true;
}

void ComputeThread::loop() {
#ifdef __linux__
  pthread_setname_np(pthread_self(), "ddad-compute");
#endif
  lowerPriority();
  std::unique_lock lock(mutex_);
  for (;;) {
    // While the process exits this waits for good: ending would tear OpenMP's threads down beside exit().
    wake_.wait(lock, [this] { return !exiting_ && !queue_.empty(); });
    running_ = std::move(queue_.front());
    queue_.pop_front();
    std::shared_ptr<ComputeTask> task = running_;
    lock.unlock();
    task->run();
    lock.lock();
    if (!exiting_) {
      lock.unlock();
      task->completed();
      lock.lock();
    }
    running_.reset();
    lock.unlock();
    left_.notify_all();
    task.reset();  // outside the lock: what it holds may post again
    lock.lock();
  }
}

void ComputeThread::stopForExit() {
  std::unique_lock lock(mutex_);
  if (!started_ || getpid() != process_) return;
  exiting_ = true;
  if (running_) running_->stop();
  left_.wait_for(lock, kExitWait, [this] { return !running_; });
}

}  // namespace ddad::bind
