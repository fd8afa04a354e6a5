#include "bind/napi/cancel_token.h"

#include <utility>

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

void CancelToken::attach(const std::shared_ptr<Abortable>& call, size_t part) {
  std::erase_if(attached_, [](const Attached& earlier) { return earlier.call.expired(); });
  attached_.push_back({call, part});
}

void CancelToken::cancel(const Napi::CallbackInfo& info) {
  callSync(info.Env(), [&] {
    cancelled_ = true;
    for (const Attached& attached : std::exchange(attached_, {}))
      if (const auto call = attached.call.lock()) call->abort(info.Env(), attached.part);
  });
}

}  // namespace ddad::bind
