#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "bind/napi/napi_base.h"

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
  void attach(const std::shared_ptr<Request>& request) { attach(request, kWhole); }
  /// To one part of a call only.
  void attach(const std::shared_ptr<Request>& request, size_t part);

 private:
  void cancel(const Napi::CallbackInfo& info);

  static constexpr size_t kWhole = static_cast<size_t>(-1);
  struct Attached {
    std::weak_ptr<Request> request;
    size_t part;
  };

  bool cancelled_ = false;
  std::vector<Attached> attached_;
};

}  // namespace ddad::bind
