#include "bind/napi/cancel_token.h"

#include <utility>

#include "bind/napi/env_data.h"
#include "bind/napi/errors.h"
#include "bind/napi/tagged.h"

namespace ddad::bind {
namespace {

constexpr napi_type_tag kTokenTag = {0x6d2b1f0c9a3e4d57, 0x8c41e7735fd0ab19};

}  // namespace

Napi::Function CancelToken::define(Napi::Env env) {
  return DefineClass(env, "CancelToken", {InstanceMethod<&CancelToken::cancel>("cancel")});
}

CancelToken* CancelToken::from(const Napi::Value& value) { return unwrapTagged<CancelToken>(value, kTokenTag); }

CancelToken::CancelToken(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CancelToken>(info) {
  info.This().As<Napi::Object>().TypeTag(&kTokenTag);
}

void CancelToken::attach(const std::shared_ptr<Request>& request, size_t part) {
  std::erase_if(attached_, [](const Attached& earlier) { return earlier.request.expired(); });
  attached_.push_back({request, part});
}

void CancelToken::cancel(const Napi::CallbackInfo& info) {
  callSync(info.Env(), [&] {
    cancelled_ = true;
    EnvData& env = EnvData::of(info.Env());
    for (const Attached& attached : std::exchange(attached_, {})) {
      const auto request = attached.request.lock();
      if (!request) continue;
      if (attached.part == kWhole)
        env.abort(request);
      else
        env.abort(request, attached.part);
    }
  });
}

}  // namespace ddad::bind
