#include "bind/napi/errors.h"

#include <exception>
#include <new>
#include <stdexcept>

#include "base/error.h"
#include "nlohmann/json.hpp"

namespace ddad::bind {

Failure currentFailure() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {"ERR_MEMORY", "out of memory"};
  } catch (const std::length_error&) {
    return {"ERR_MEMORY", "a buffer would be larger than memory"};
  } catch (const nlohmann::json::exception& error) {
    return {"ERR_CONFIG", error.what()};
  } catch (const std::exception& error) {
    return {"ERR_INTERNAL", error.what()};
  } catch (...) {
    return {"ERR_INTERNAL", "an unknown exception"};
  }
}

Napi::Error toError(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  return error;
}

}  // namespace ddad::bind
