#pragma once
#include "bind/napi/napi_base.h"

namespace ddad::bind {

/// profile(what, config, options, token): Promise<string>; see Addon in src/engine/native.ts.
Napi::Value profile(const Napi::CallbackInfo& call);

}  // namespace ddad::bind
