#pragma once
#include "bind/napi/napi_base.h"

namespace ddad::bind {

/// exportOnnx(path, out, options, token) and exportWeights(path, out, options, token): Promise<string>, the JSON of
/// export/export.h.
Napi::Value exportOnnx(const Napi::CallbackInfo& call);
Napi::Value exportWeights(const Napi::CallbackInfo& call);

}  // namespace ddad::bind
