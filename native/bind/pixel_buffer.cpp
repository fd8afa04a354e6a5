#include "bind/pixel_buffer.h"

#include <string>
#include <utility>

#include "base/memory_limit.h"
#include "bind/napi/arguments.h"
#include "bind/napi/errors.h"
#include "bind/napi/tagged.h"

namespace ddad::bind {
namespace {

constexpr double kMaxBytes = 1LL << 34;  // the largest image, in floats
constexpr napi_type_tag kTag = {0x2f6c8a51e0b7439d, 0x91d3470fbe5c62a8};

}  // namespace

Napi::Function PixelBuffer::define(Napi::Env env) {
  return DefineClass(env, "PixelBuffer", {InstanceMethod<&PixelBuffer::append>("append")});
}

PixelBuffer* PixelBuffer::from(const Napi::Value& value) { return unwrapTagged<PixelBuffer>(value, kTag); }

PixelBuffer::PixelBuffer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PixelBuffer>(info) {
  callSync(info.Env(), [&] {
    capacity_ = static_cast<size_t>(expectNumber(info[0], "PixelBuffer: bytes", 1, kMaxBytes));
    auto self = info.This().As<Napi::Object>();
    self.TypeTag(&kTag);
    self.Set("byteLength", static_cast<double>(capacity_));
  });
}

void PixelBuffer::Finalize(Napi::Env env) {
  bytes_ = {};
  report(env);
}

void PixelBuffer::append(const Napi::CallbackInfo& info) {
  callSync(info.Env(), [&] {
    const ArrayView view =
        expectTypedArray(info[0], "append: view", {napi_uint8_array, napi_uint16_array, napi_float32_array});
    if (bytes_.empty()) {
      type_ = view.type;
      elementBytes_ = view.elementBytes;
      requireMemory(static_cast<int64_t>(capacity_ / sizeof(float)));
      bytes_.reserve(capacity_);
      report(info.Env());
    }
    if (view.type != type_) throwArgument("append: view", "an array of the type of the first", "another type");
    const size_t more = view.length * elementBytes_, room = capacity_ - bytes_.size();
    if (more > room) throwArgument("append: view", "at most " + std::to_string(room) + " bytes", std::to_string(more));
    const auto* first = static_cast<const uint8_t*>(view.data);
    if (more > 0) bytes_.insert(bytes_.end(), first, first + more);
  });
}

std::vector<uint8_t> PixelBuffer::take(Napi::Env env) {
  std::vector<uint8_t> bytes = std::exchange(bytes_, {});
  report(env);
  return bytes;
}

void PixelBuffer::report(Napi::Env env) {
  const auto held = static_cast<int64_t>(bytes_.capacity());
  Napi::MemoryManagement::AdjustExternalMemory(env, held - std::exchange(reported_, held));
}

}  // namespace ddad::bind
