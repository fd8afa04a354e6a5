#pragma once
// The thread that computes: one in a process, shared by all models, so that the processors are never oversubscribed
// and no thread of libuv's pool is held. It knows nothing of JavaScript.
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "base/cancel.h"

namespace ddad::bind {

class ComputeTask {
 public:
  virtual ~ComputeTask() = default;
  /// The work, on the compute thread.
  virtual void run() noexcept = 0;
  /// Follows run() on the same thread, unless the process is exiting.
  virtual void completed() noexcept {}

  /// Makes the task stop early. On any thread.
  virtual void stop() noexcept { cancel.request(); }

 protected:
  Cancel cancel;
};

class ComputeThread {
 public:
  static ComputeThread& instance();

  /// Appends a task. The thread starts with the first one.
  void post(std::shared_ptr<ComputeTask> task);
  void post(std::function<void()> function);

  /// Takes a task that has not begun out of the queue; true when it was there, and then it never runs.
  bool remove(const ComputeTask* task);

  /// Ends the running task and begins no other: the process is exiting.
  void stopForExit();

  /// Returns once `task` is not running. Cancel it first, or this takes as long as the task does.
  void waitUntilLeft(const ComputeTask* task);

 private:
  ComputeThread() = default;
  void start();
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;  // a task has come
  std::condition_variable left_;  // a task has ended
  std::deque<std::shared_ptr<ComputeTask>> queue_;
  std::shared_ptr<ComputeTask> running_;
  bool started_ = false;
  bool exiting_ = false;
  long process_ = 0;  // whose thread it is; a fork has none
};

}  // namespace ddad::bind
