#pragma once
#include <memory>
#include <vector>

#include "bind/napi_base.h"

namespace ddad::bind {

class Request;

/// JavaScript's CancelToken: new CancelToken(), cancel(). Stops every call that it was given to.
class CancelToken : public Napi::ObjectWrap<CancelToken> {
 public:
  static Napi::Function define(Napi::Env env);
  /// The token in `value`, or null where it is anything else.
  static CancelToken* from(const Napi::Value& value);
  explicit CancelToken(const Napi::CallbackInfo& info);

  bool cancelled() const { return cancelled_; }
  void attach(const std::shared_ptr<Request>& request);

 private:
  void cancel(const Napi::CallbackInfo& info);

  bool cancelled_ = false;
  std::vector<std::weak_ptr<Request>> requests_;
};

}  // namespace ddad::bind
