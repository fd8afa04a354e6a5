#include "bind/images.h"

#include <climits>

#include "base/error.h"
#include "bind/napi/arguments.h"
#include "bind/pixel_buffer.h"

namespace ddad::bind {
namespace {

constexpr int kMaxChannels = 4;

void checkPixels(int width, int height, const std::string& what) {
  if (int64_t{width} * height > kMaxPixels)
    throwArgument(what, "at most " + std::to_string(kMaxPixels) + " pixels",
                  std::to_string(width) + " x " + std::to_string(height));
}

}  // namespace

OwnedImage copyImage(const Napi::Value& value, const std::string& call) {
  if (!value.IsObject() || value.IsFunction()) throwArgument(call + ": image", "an object", describe(value));
  // Getters are JavaScript and may change anything, so all of them run before the pixels are looked at.
  const auto image = value.As<Napi::Object>();
  const Napi::Value data = image.Get("data");
  const Napi::Value width = image.Get("width");
  const Napi::Value height = image.Get("height");
  const Napi::Value channels = image.Get("channels");
  const Napi::Value outWidth = image.Get("outWidth");
  const Napi::Value outHeight = image.Get("outHeight");
  const Napi::Value label = image.Get("label");
  const Napi::Value residuals = image.Get("residuals");
  const Napi::Value features = image.Get("features");
  const Napi::Value featuresOnly = image.Get("featuresOnly");

  OwnedImage owned;
  ScoreRequest& request = owned.request;
  request.width = expectInteger(width, call + ": image.width", 1, INT_MAX);
  request.height = expectInteger(height, call + ": image.height", 1, INT_MAX);
  request.channels = expectInteger(channels, call + ": image.channels", 1, kMaxChannels);
  if (!outWidth.IsUndefined()) request.outWidth = expectInteger(outWidth, call + ": image.outWidth", 0, INT_MAX);
  if (!outHeight.IsUndefined()) request.outHeight = expectInteger(outHeight, call + ": image.outHeight", 0, INT_MAX);
  if (!label.IsUndefined()) request.label = expectInteger(label, call + ": image.label", 0, INT_MAX);
  if (!residuals.IsUndefined()) request.residuals = residuals.ToBoolean();
  if (!features.IsUndefined()) request.features = features.ToBoolean();
  if (!featuresOnly.IsUndefined()) request.featuresOnly = featuresOnly.ToBoolean();
  checkPixels(request.width, request.height, call + ": image");
  checkPixels(request.outWidth == 0 ? request.width : request.outWidth,
              request.outHeight == 0 ? request.height : request.outHeight, call + ": map");

  const auto describeAs = [&](napi_typedarray_type type, size_t length) {
    const size_t elements = static_cast<size_t>(request.width) * request.height * request.channels;
    if (length != elements)
      throwArgument(call + ": image.data",
                    std::to_string(elements) + " values (" + std::to_string(request.width) + " x " +
                        std::to_string(request.height) + " pixels of " + std::to_string(request.channels) + ")",
                    std::to_string(length));
    request.type = type == napi_uint8_array    ? PixelType::kU8
                   : type == napi_uint16_array ? PixelType::kU16
                                               : PixelType::kF32;
  };
  if (PixelBuffer* buffer = PixelBuffer::from(data)) {
    describeAs(buffer->type(), buffer->length());
    owned.pixels = buffer->take(value.Env());
  } else {
    const ArrayView view =
        expectTypedArray(data, call + ": image.data", {napi_uint8_array, napi_uint16_array, napi_float32_array});
    describeAs(view.type, view.length);
    owned.pixels = view.copy<uint8_t>();
  }
  request.data = owned.pixels.data();
  return owned;
}

Map::Map(Napi::Env env, size_t length, std::vector<napi_ref>& held) : length_(length) {
  napi_value buffer = nullptr;
  void* memory = nullptr;
  if (napi_create_buffer(env, length * sizeof(float), &memory, &buffer) != napi_ok ||
      napi_create_reference(env, buffer, 1, &reference_) != napi_ok) {
    if (env.IsExceptionPending()) env.GetAndClearPendingException();
    throw Error("ERR_MEMORY", "no memory for a map of " + std::to_string(length) + " pixels");
  }
  held.push_back(reference_);
  data_ = static_cast<float*>(memory);
}

Napi::Value Map::take(Napi::Env env) const {
  napi_value buffer = nullptr;
  if (napi_get_reference_value(env, reference_, &buffer) != napi_ok) throw Napi::Error::New(env);
  const Napi::Uint8Array bytes(env, buffer);
  return Napi::Float32Array::New(env, length_, bytes.ArrayBuffer(), bytes.ByteOffset());
}

}  // namespace ddad::bind
