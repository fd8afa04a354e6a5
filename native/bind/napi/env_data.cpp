#include "bind/napi/env_data.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

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
  const CancelScope scope(&cancel);
  try {
    cancel.check();
    result = work_(cancel);
  } catch (...) {
    failure = currentFailure();
  }
  work_ = nullptr;  // frees the copied input here rather than on JavaScript's thread
}

void Request::completed() noexcept { channel_->post(shared_from_this()); }

void Request::abort(Napi::Env env, size_t part) {
  EnvData& data = EnvData::of(env);
  if (part == kWhole)
    data.abort(shared_from_this());
  else
    data.abort(shared_from_this(), part);
}

void Request::stop() noexcept {
  cancel.request();
  if (parts)
    for (Cancel& part : *parts) part.request();
}

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
  const auto request = std::make_shared<Request>(channel_, std::move(resource), std::move(work), deferred);
  if (token != nullptr) token->attach(request);
  enqueue(request);
}

void EnvData::submit(napi_deferred deferred, std::shared_ptr<Resource> resource,
                     const std::vector<CancelToken*>& tokens, Parts parts, std::vector<napi_ref> held, Work work) {
  const auto request = std::make_shared<Request>(channel_, std::move(resource), std::move(work), deferred);
  request->parts = std::move(parts);
  request->held = std::move(held);
  try {
    if (request->resource) request->resource->checkAlive();
    if (std::all_of(tokens.begin(), tokens.end(), [](const CancelToken* token) { return token->cancelled(); }))
      throw Error(aborted().code, aborted().message);
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i]->cancelled()) (*request->parts)[i].request();
      tokens[i]->attach(request, i);
    }
    enqueue(request);
  } catch (...) {
    release(*request);
    throw;
  }
}

void EnvData::enqueue(const std::shared_ptr<Request>& request) {
  pending_.emplace(request.get(), request);
  try {
    ComputeThread::instance().post(request);
  } catch (...) {
    pending_.erase(request.get());
    throw;
  }
  // A pending promise keeps the process alive; an idle addon does not.
  if (pending_.size() == 1) napi_ref_threadsafe_function(env_, wake_);
}

void EnvData::stop(const std::shared_ptr<Request>& request, const Failure& failure) {
  request->stop();
  if (!ComputeThread::instance().remove(request.get())) return;  // it runs or has run: it comes back by itself
  request->failure = failure;
  // A token of an addon that is loaded a second time in this thread stops calls that are not ours.
  if (pending_.contains(request.get()))
    settle(request);
  else
    request->completed();
}

void EnvData::abort(const std::shared_ptr<Request>& request) { stop(request, aborted()); }

void EnvData::abort(const std::shared_ptr<Request>& request, size_t part) {
  std::vector<Cancel>& parts = *request->parts;
  parts[part].request();
  if (std::all_of(parts.begin(), parts.end(), [](const Cancel& cancel) { return cancel.requested(); })) abort(request);
}

void EnvData::release(Request& request) {
  for (const napi_ref reference : std::exchange(request.held, {})) napi_delete_reference(env_, reference);
}

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
  const Napi::HandleScope scope(env_);
  if (pending_.empty()) napi_unref_threadsafe_function(env_, wake_);
  if (request->resource) request->resource->reportMemory(env_);

  answer(request);
  release(*request);
}

void EnvData::answer(const std::shared_ptr<Request>& request) {
  Failure& failure = request->failure;
  if (failure.code == "ERR_ABORTED" && request->disposed) failure = disposedFailure(*request->resource);
  // Statuses are not looked at from here on: a terminated worker refuses to settle promises, and nobody waits there.
  const Napi::Env env(env_);
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
  for (const auto& [key, request] : self.pending_) request->stop();
  for (const auto& [key, request] : self.pending_)
    if (!thread.remove(request.get())) thread.waitUntilLeft(request.get());
  for (const auto& [key, request] : self.pending_) self.release(*request);
  self.pending_.clear();
  if (self.detectorClass != nullptr) napi_delete_reference(self.env_, self.detectorClass);
  napi_release_threadsafe_function(self.wake_, napi_tsfn_abort);
}

}  // namespace ddad::bind
