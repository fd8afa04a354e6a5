#pragma once
#include "bind/napi/napi_base.h"

namespace ddad::bind {

/// The native object behind `value` whose class has put `tag` on it, or null: prototypes can be set to anything, tags
/// cannot.
template <class T>
T* unwrapTagged(const Napi::Value& value, const napi_type_tag& tag) {
  if (!value.IsObject()) return nullptr;
  bool ours = false;
  if (napi_check_object_type_tag(value.Env(), value, &tag, &ours) != napi_ok || !ours) return nullptr;
  void* object = nullptr;
  return napi_unwrap(value.Env(), value, &object) == napi_ok ? static_cast<T*>(object) : nullptr;
}

}  // namespace ddad::bind
