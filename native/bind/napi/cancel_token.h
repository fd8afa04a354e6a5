#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "bind/napi/napi_base.h"

namespace ddad::bind {

/// What a token stops: a call in flight, or one of its parts.
class Abortable {
 public:
  static constexpr size_t kWhole = static_cast<size_t>(-1);
  virtual ~Abortable() = default;
  /// `env` is that of the token.
  virtual void abort(Napi::Env env, size_t part) = 0;
};

/// JavaScript's CancelToken: new CancelToken(), cancel(). Stops every call that it was given to.
class CancelToken : public Napi::ObjectWrap<CancelToken> {
 public:
  static Napi::Function define(Napi::Env env);
  /// The token in `value`, or null where it is anything else.
  static CancelToken* from(const Napi::Value& value);
  explicit CancelToken(const Napi::CallbackInfo& info);

  bool cancelled() const { return cancelled_; }
  /// To a call, or to one part of it only.
  void attach(const std::shared_ptr<Abortable>& call, size_t part = Abortable::kWhole);

 private:
  void cancel(const Napi::CallbackInfo& info);

  struct Attached {
    std::weak_ptr<Abortable> call;
    size_t part;
  };

  bool cancelled_ = false;
  std::vector<Attached> attached_;
};

}  // namespace ddad::bind
