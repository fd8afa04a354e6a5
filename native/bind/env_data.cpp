#include "bind/env_data.h"

#include <utility>

#include "bind/cancel_token.h"
#include "tensor/error.h"

namespace ddad::bind {
namespace {

Failure aborted() { return {"ERR_ABORTED", "the operation was aborted"}; }

Failure disposedFailure(const Resource& resource) {
  return {"ERR_DISPOSED", std::string("the ") + resource.name() + " has been disposed"};
}

}  // namespace

void Channel::post(std::shared_ptr<Request> request) noexcept {
  try {
    std::lock_guard lock(mutex_);
    if (wake_ == nullptr) return;
    done_.push_back(std::move(request));
    // Every wake-up takes all that is done, so what it carries does not matter.
    napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
  } catch (...) {
    // No memory for a pointer: its promise stays pending.
  }
}

std::deque<std::shared_ptr<Request>> Channel::take() {
  std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

void Channel::close() {
  std::deque<std::shared_ptr<Request>> dropped;  // dies after the lock
  std::lock_guard lock(mutex_);
  wake_ = nullptr;
  dropped.swap(done_);
}

Request::Request(std::shared_ptr<Channel> channel, std::shared_ptr<Resource> owner, Work work, napi_deferred promise)
    : resource(std::move(owner)), deferred(promise), channel_(std::move(channel)), work_(std::move(work)) {}

void Request::run() noexcept {
  try {
    cancel.check();
    result = work_(cancel);
  } catch (...) {
    failure = currentFailure();
  }
  work_ = nullptr;  // frees the copied input here rather than on JavaScript's thread
}

void Request::completed() noexcept { channel_->post(shared_from_this()); }

EnvData& EnvData::create(Napi::Env env) {
  auto* data = new EnvData(env);
  env.SetInstanceData(data);
  const auto check = [&](napi_status status) {
    if (status != napi_ok) throw Napi::Error::New(env);
  };
  check(napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "ddad-native"), 0, 1, nullptr,
                                        nullptr, data, onWake, &data->wake_));
  data->channel_ = std::make_shared<Channel>(data->wake_);
  check(napi_unref_threadsafe_function(env, data->wake_));
  // Hooks run last in, first out: ours comes before the one with which Node ends the thread-safe function.
  check(napi_add_env_cleanup_hook(env, onTeardown, data));
  return *data;
}

EnvData& EnvData::of(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }

void EnvData::submit(napi_deferred deferred, std::shared_ptr<Resource> resource, CancelToken* token, Work work) {
  if (resource) resource->checkAlive();
  if (token != nullptr && token->cancelled()) throw Error(aborted().code, aborted().message);
  auto request = std::make_shared<Request>(channel_, std::move(resource), std::move(work), deferred);
  pending_.emplace(request.get(), request);
  try {
    if (token != nullptr) token->attach(request);
    ComputeThread::instance().post(request);
  } catch (...) {
    pending_.erase(request.get());
    throw;
  }
  // A pending promise keeps the process alive; an idle addon does not.
  if (pending_.size() == 1) napi_ref_threadsafe_function(env_, wake_);
}

void EnvData::stop(const std::shared_ptr<Request>& request, const Failure& failure) {
  request->cancel.request();
  if (!ComputeThread::instance().remove(request.get())) return;  // it runs or has run: it comes back by itself
  request->failure = failure;
  settle(request);
}

void EnvData::abort(const std::shared_ptr<Request>& request) { stop(request, aborted()); }

void EnvData::dispose(const std::shared_ptr<Resource>& resource) {
  if (resource->disposed()) return;
  resource->markDisposed();
  std::vector<std::shared_ptr<Request>> affected;
  for (const auto& [key, request] : pending_)
    if (request->resource == resource) affected.push_back(request);
  for (const auto& request : affected) {
    request->disposed = true;
    stop(request, disposedFailure(*resource));
  }
  ComputeThread::instance().post([resource] { resource->drop(); });
  resource->reportMemory(env_);
}

void EnvData::settle(const std::shared_ptr<Request>& request) {
  if (pending_.erase(request.get()) == 0) return;
  if (pending_.empty()) napi_unref_threadsafe_function(env_, wake_);
  if (request->resource) request->resource->reportMemory(env_);

  Failure& failure = request->failure;
  if (failure.code == "ERR_ABORTED" && request->disposed) failure = disposedFailure(*request->resource);
  // Statuses are not looked at from here on: a terminated worker refuses to settle promises, and nobody waits there.
  const Napi::Env env(env_);
  const Napi::HandleScope scope(env);
  try {
    if (!failure) {
      napi_resolve_deferred(env_, request->deferred, request->result(env));
      return;
    }
  } catch (const Napi::Error& error) {
    napi_reject_deferred(env_, request->deferred, error.Value());
    return;
  } catch (...) {
    failure = currentFailure();
  }
  try {
    napi_reject_deferred(env_, request->deferred, toError(env, failure).Value());
  } catch (...) {
    // Only where JavaScript has been stopped.
  }
}

void EnvData::onWake(napi_env env, napi_value, void* context, void*) {
  if (env == nullptr) return;  // the environment is gone, and with it what `context` was
  auto& self = *static_cast<EnvData*>(context);
  try {
    for (const auto& request : self.channel_->take()) self.settle(request);
  } catch (...) {
    // Only where JavaScript has been stopped.
  }
}

void EnvData::onTeardown(void* data) {
  auto& self = *static_cast<EnvData*>(data);
  self.channel_->close();
  auto& thread = ComputeThread::instance();
  for (const auto& [key, request] : self.pending_) request->cancel.request();
  for (const auto& [key, request] : self.pending_)
    if (!thread.remove(request.get())) thread.waitUntilLeft(request.get());
  self.pending_.clear();
  if (self.detectorClass != nullptr) napi_delete_reference(self.env_, self.detectorClass);
  napi_release_threadsafe_function(self.wake_, napi_tsfn_abort);
}

}  // namespace ddad::bind
