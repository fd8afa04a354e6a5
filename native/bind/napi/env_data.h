#pragma once
// What the addon keeps per environment (the main thread, each worker): pending promises and the way back to them.
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "bind/napi/cancel_token.h"
#include "bind/napi/compute_thread.h"
#include "bind/napi/errors.h"
#include "bind/napi/napi_base.h"
#include "bind/napi/resource.h"

namespace ddad::bind {

class DetectorResource;
class Request;

/// Makes the value that a promise resolves to; runs on JavaScript's thread.
using ToValue = std::function<Napi::Value(Napi::Env)>;
inline Napi::Value toUndefined(Napi::Env env) { return env.Undefined(); }
/// The engine's part of a call; runs on the compute thread.
using Work = std::function<ToValue(const Cancel&)>;

/// Carries finished requests to one environment's thread; once closed it lets them go instead.
class Channel {
 public:
  explicit Channel(napi_threadsafe_function wake) : wake_(wake) {}
  void post(std::shared_ptr<Request> request) noexcept;
  std::deque<std::shared_ptr<Request>> take();
  void close();

 private:
  std::mutex mutex_;
  napi_threadsafe_function wake_;
  std::deque<std::shared_ptr<Request>> done_;
};

/// The parts of a call that can be cancelled apart from each other.
using Parts = std::shared_ptr<std::vector<Cancel>>;

/// One call whose promise is pending.
class Request final : public ComputeTask, public Abortable, public std::enable_shared_from_this<Request> {
 public:
  Request(std::shared_ptr<Channel> channel, std::shared_ptr<Resource> resource, Work work, napi_deferred deferred);
  void run() noexcept override;
  void completed() noexcept override;
  void abort(Napi::Env env, size_t part) override;
  /// With all of its parts.
  void stop() noexcept override;

  // The rest belongs to JavaScript's thread, once the task is done or was removed from the queue.
  const std::shared_ptr<Resource> resource;  // null for calls that concern no object
  napi_deferred deferred;
  ToValue result;
  Failure failure;
  bool disposed = false;       // its object was disposed while it ran
  Parts parts;                 // null where the call is one whole
  std::vector<napi_ref> held;  // JavaScript's memory that the compute thread writes to

 private:
  const std::shared_ptr<Channel> channel_;
  Work work_;
};

class EnvData {
 public:
  /// Sets up `env`, whose instance data this becomes.
  static EnvData& create(Napi::Env env);
  static EnvData& of(Napi::Env env);
  ~EnvData() = default;
  EnvData(const EnvData&) = delete;
  EnvData& operator=(const EnvData&) = delete;

  /// Queues `work`; `deferred` is settled when it is done. Throws ERR_DISPOSED for a disposed resource, ERR_ABORTED
  /// for a token that is up already; `token` may be null.
  void submit(napi_deferred deferred, std::shared_ptr<Resource> resource, CancelToken* token, Work work);
  /// The same for a call of several parts, a token each; those whose token is up already get their flag raised. `held`
  /// are references that are deleted when the call has ended, in any way.
  void submit(napi_deferred deferred, std::shared_ptr<Resource> resource, const std::vector<CancelToken*>& tokens,
              Parts parts, std::vector<napi_ref> held, Work work);

  /// Stops a request: at once when it has not begun, at its next look at the flag otherwise.
  void abort(const std::shared_ptr<Request>& request);
  /// Raises the flag of one part, and stops a request none of whose parts is wanted any more.
  void abort(const std::shared_ptr<Request>& request, size_t part);

  /// Frees what stands behind an object. Its calls in flight are stopped and fail with ERR_DISPOSED.
  void dispose(const std::shared_ptr<Resource>& resource);

  // Classes of this environment. NativeDetector's constructor takes its resource from `newDetector`, a way in that
  // JavaScript does not have.
  napi_ref detectorClass = nullptr;
  std::shared_ptr<DetectorResource> newDetector;

 private:
  explicit EnvData(napi_env env) : env_(env) {}
  static void onWake(napi_env env, napi_value callback, void* context, void* data);
  static void onTeardown(void* data);
  void enqueue(const std::shared_ptr<Request>& request);
  void stop(const std::shared_ptr<Request>& request, const Failure& failure);
  void settle(const std::shared_ptr<Request>& request);
  void answer(const std::shared_ptr<Request>& request);
  void release(Request& request);

  const napi_env env_;
  napi_threadsafe_function wake_ = nullptr;
  std::shared_ptr<Channel> channel_;
  std::unordered_map<const Request*, std::shared_ptr<Request>> pending_;
};

}  // namespace ddad::bind
