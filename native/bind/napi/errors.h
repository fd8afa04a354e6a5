#pragma once
// The one place where C++ exceptions become JavaScript errors.
#include <string>
#include <utility>

#include "bind/napi/napi_base.h"

namespace ddad::bind {

/// An error on its way from one thread to another: its stable code and its sentence. No code: no error.
struct Failure {
  std::string code;
  std::string message;

  explicit operator bool() const { return !code.empty(); }
};

/// The exception that is being handled, for use in a catch block: ddad::Error keeps its code, lack of memory is
/// ERR_MEMORY, JSON that is not what the engine expects ERR_CONFIG, anything else ERR_INTERNAL.
Failure currentFailure() noexcept;

/// An Error with `code` and `message`.
Napi::Error toError(Napi::Env env, const Failure& failure);

/// Runs the body of a synchronous function: whatever it throws arrives in JavaScript as an exception.
template <class F>
auto callSync(Napi::Env env, F&& body) -> decltype(body()) {
  Failure failure;
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;  // thrown by JavaScript (a getter, say): node-addon-api passes it on as it is
  } catch (...) {
    failure = currentFailure();
  }
  throw toError(env, failure);
}

/// Runs the body of a function that returns a promise: whatever it throws becomes a rejection, so that callers have
/// one way to handle errors. `body` settles the promise or hands it to somebody who will.
template <class F>
Napi::Value callAsync(Napi::Env env, F&& body) {
  napi_deferred deferred = nullptr;
  napi_value promise = nullptr;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) throw Napi::Error::New(env);
  Failure failure;
  try {
    body(deferred);
  } catch (const Napi::Error& error) {
    napi_reject_deferred(env, deferred, error.Value());
  } catch (...) {
    failure = currentFailure();
  }
  if (failure) napi_reject_deferred(env, deferred, toError(env, failure).Value());
  return {env, promise};
}

}  // namespace ddad::bind
