#pragma once
#include <cstdint>
#include <vector>

#include "bind/napi/napi_base.h"

namespace ddad::bind {

/// JavaScript's PixelBuffer: new PixelBuffer(bytes), append(view), byteLength. Pixels in the engine's own memory,
/// written a piece at a time, so that a large image does not hold JavaScript's thread; scoring it empties it.
class PixelBuffer : public Napi::ObjectWrap<PixelBuffer> {
 public:
  static Napi::Function define(Napi::Env env);
  /// The buffer in `value`, or null where it is anything else.
  static PixelBuffer* from(const Napi::Value& value);
  explicit PixelBuffer(const Napi::CallbackInfo& info);
  void Finalize(Napi::Env env) override;

  /// Of the elements; that of the first view appended.
  napi_typedarray_type type() const { return type_; }
  size_t length() const { return bytes_.size() / elementBytes_; }
  /// What was appended; leaves the buffer empty.
  std::vector<uint8_t> take(Napi::Env env);

 private:
  void append(const Napi::CallbackInfo& info);
  /// Tells V8 how much memory hangs on the object.
  void report(Napi::Env env);

  std::vector<uint8_t> bytes_;
  size_t capacity_ = 0;  // bytes
  size_t elementBytes_ = 1;
  napi_typedarray_type type_ = napi_uint8_array;
  int64_t reported_ = 0;
};

}  // namespace ddad::bind
