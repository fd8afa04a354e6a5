#include "bind/detector_binding.h"

#include <climits>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bind/arguments.h"
#include "bind/cancel_token.h"
#include "device/device.h"
#include "tensor/error.h"

namespace ddad::bind {
namespace {

// Pixels of an image or a map: as many as sharp decodes unless told otherwise, and far from overflowing an int.
constexpr int64_t kMaxPixels = int64_t{1} << 28;
constexpr int kMaxChannels = 4;

/// A score request with pixels of its own.
struct OwnedImage {
  ScoreRequest request;
  std::vector<uint8_t> pixels;
};

void checkPixels(int width, int height, const std::string& what) {
  if (int64_t{width} * height > kMaxPixels)
    throwArgument(what, "at most " + std::to_string(kMaxPixels) + " pixels",
                  std::to_string(width) + " x " + std::to_string(height));
}

OwnedImage copyImage(const Napi::Value& value) {
  if (!value.IsObject() || value.IsFunction()) throwArgument("score: image", "an object", describe(value));
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

  OwnedImage owned;
  ScoreRequest& request = owned.request;
  request.width = expectInteger(width, "score: image.width", 1, INT_MAX);
  request.height = expectInteger(height, "score: image.height", 1, INT_MAX);
  request.channels = expectInteger(channels, "score: image.channels", 1, kMaxChannels);
  if (!outWidth.IsUndefined()) request.outWidth = expectInteger(outWidth, "score: image.outWidth", 0, INT_MAX);
  if (!outHeight.IsUndefined()) request.outHeight = expectInteger(outHeight, "score: image.outHeight", 0, INT_MAX);
  if (!label.IsUndefined()) request.label = expectInteger(label, "score: image.label", 0, INT_MAX);
  if (!residuals.IsUndefined()) request.residuals = residuals.ToBoolean();
  checkPixels(request.width, request.height, "score: image");
  checkPixels(request.outWidth == 0 ? request.width : request.outWidth,
              request.outHeight == 0 ? request.height : request.outHeight, "score: map");

  const ArrayView view =
      expectTypedArray(data, "score: image.data", {napi_uint8_array, napi_uint16_array, napi_float32_array});
  const size_t elements = static_cast<size_t>(request.width) * request.height * request.channels;
  if (view.length != elements)
    throwArgument("score: image.data",
                  std::to_string(elements) + " values (" + std::to_string(request.width) + " x " +
                      std::to_string(request.height) + " pixels of " + std::to_string(request.channels) + ")",
                  std::to_string(view.length));
  request.type = view.type == napi_uint8_array    ? PixelType::kU8
                 : view.type == napi_uint16_array ? PixelType::kU16
                                                  : PixelType::kF32;
  owned.pixels = view.copy<uint8_t>();
  request.data = owned.pixels.data();
  return owned;
}

Napi::Float64Array toArray(Napi::Env env, const std::vector<double>& values) {
  auto array = Napi::Float64Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(double));
  return array;
}

// A map is copied into memory of JavaScript's: such a buffer can be transferred to another thread, an external one
// cannot.
Napi::Value toMap(Napi::Env env, const std::vector<float>& values) {
  if (values.empty()) return env.Null();
  auto map = Napi::Float32Array::New(env, values.size());
  std::memcpy(map.Data(), values.data(), values.size() * sizeof(float));
  return map;
}

Napi::Value toObject(Napi::Env env, const ScoreResult::Statistics& statistics) {
  auto object = Napi::Object::New(env);
  object.Set("mean", toArray(env, statistics.mean));
  object.Set("std", toArray(env, statistics.std));
  object.Set("elements", static_cast<double>(statistics.elements));
  return object;
}

Napi::Value toObject(Napi::Env env, const ScoreResult& result) {
  auto object = Napi::Object::New(env);
  object.Set("map", toMap(env, result.map));
  object.Set("pixelMap", toMap(env, result.pixelMap));
  object.Set("featureMap", toMap(env, result.featureMap));
  object.Set("width", result.width);
  object.Set("height", result.height);
  object.Set("score", result.score);
  object.Set("pixel", toObject(env, result.pixel));
  object.Set("rgb", result.rgb.elements == 0 ? env.Null() : toObject(env, result.rgb));
  object.Set("feature", result.featureMap.empty() ? env.Null() : toObject(env, result.feature));
  object.Set("memory", result.memory.elements == 0 ? env.Null() : toObject(env, result.memory));
  object.Set("residuals", toMap(env, result.residuals));
  return object;
}

}  // namespace

DetectorResource::DetectorResource(std::unique_ptr<Scorer> from) : Resource("detector"), scorer(std::move(from)) {
  publishConfig(scorer->config());
  publish();
}

void DetectorResource::publish() { publishMemory(scorer->memory()); }

Napi::Function NativeDetector::define(Napi::Env env) {
  return DefineClass(
      env, "NativeDetector",
      {InstanceMethod<&NativeDetector::config>("config"), InstanceMethod<&NativeDetector::setConfig>("setConfig"),
       InstanceMethod<&NativeDetector::setMemory>("setMemory"), InstanceMethod<&NativeDetector::score>("score"),
       InstanceMethod<&NativeDetector::save>("save"), InstanceMethod<&NativeDetector::memory>("memory"),
       InstanceMethod<&NativeDetector::dispose>("dispose")});
}

Napi::Value NativeDetector::create(Napi::Env env, std::shared_ptr<DetectorResource> resource) {
  EnvData& data = EnvData::of(env);
  napi_value constructor = nullptr;
  if (napi_get_reference_value(env, data.detectorClass, &constructor) != napi_ok) throw Napi::Error::New(env);
  data.newDetector = std::move(resource);
  try {
    return Napi::Function(env, constructor).New({});
  } catch (...) {
    data.newDetector.reset();
    throw;
  }
}

NativeDetector::NativeDetector(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeDetector>(info) {
  callSync(info.Env(), [&] {
    resource_ = std::exchange(EnvData::of(info.Env()).newDetector, nullptr);
    if (!resource_) throw Error("ERR_ARGUMENT", "NativeDetector cannot be constructed; use loadDetector()");
    resource_->reportMemory(info.Env());
  });
}

void NativeDetector::Finalize(Napi::Env env) {
  if (resource_) resource_->reportMemory(env, false);
}

Napi::Value NativeDetector::config(const Napi::CallbackInfo& info) {
  return callSync(info.Env(), [&]() -> Napi::Value {
    resource_->checkAlive();
    return Napi::String::New(info.Env(), resource_->config());
  });
}

Napi::Value NativeDetector::memory(const Napi::CallbackInfo& info) {
  return callSync(info.Env(), [&]() -> Napi::Value {
    resource_->checkAlive();
    return Napi::String::New(info.Env(), resource_->memory());
  });
}

void NativeDetector::dispose(const Napi::CallbackInfo& info) {
  callSync(info.Env(), [&] { EnvData::of(info.Env()).dispose(resource_); });
}

Napi::Value NativeDetector::setConfig(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    nlohmann::json config = expectJson(info[0], "setConfig: config");
    EnvData::of(info.Env())
        .submit(deferred, resource_, nullptr, [self = resource_, config = std::move(config)](const Cancel&) -> ToValue {
          self->scorer->setConfig(config);
          self->publishConfig(self->scorer->config());
          return toUndefined;
        });
  });
}

Napi::Value NativeDetector::setMemory(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const int label = expectInteger(info[0], "setMemory: label", 0, INT_MAX);
    const int count = expectInteger(info[2], "setMemory: count", 1, INT_MAX);
    std::vector<float> residuals =
        expectTypedArray(info[1], "setMemory: residuals", {napi_float32_array}).copy<float>();
    EnvData::of(info.Env())
        .submit(deferred, resource_, nullptr,
                [self = resource_, label, count, residuals = std::move(residuals)](const Cancel&) -> ToValue {
                  self->scorer->setMemory(label, residuals, count);
                  self->publish();
                  return toUndefined;
                });
  });
}

Napi::Value NativeDetector::score(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    CancelToken& token = expectToken(info[1], "score: token");
    auto image = std::make_shared<OwnedImage>(copyImage(info[0]));
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, image = std::move(image)](const Cancel& cancel) -> ToValue {
                  auto result = std::make_shared<ScoreResult>(self->scorer->score(image->request, cancel));
                  self->publish();
                  return [result = std::move(result)](Napi::Env env) { return toObject(env, *result); };
                });
  });
}

Napi::Value NativeDetector::save(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(info[0], "save: path");
    nlohmann::json config = expectJson(info[1], "save: config");
    CancelToken& token = expectToken(info[2], "save: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, path = std::move(path), config = std::move(config)](const Cancel&) -> ToValue {
                  self->scorer->save(path, config);
                  return toUndefined;
                });
  });
}

Napi::Value loadDetector(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(info[0], "loadDetector: path");
    const nlohmann::json json = expectJson(info[1], "loadDetector: options");
    DeviceOptions options = deviceOptions(json, "loadDetector: options");
    CancelToken& token = expectToken(info[2], "loadDetector: token");
    EnvData::of(info.Env())
        .submit(deferred, nullptr, &token,
                [path = std::move(path), options = std::move(options)](const Cancel& cancel) -> ToValue {
                  auto scorer = Scorer::load(openDevice(options.device, options.threads), path);
                  cancel.check();
                  auto resource = makeResource<DetectorResource>(std::move(scorer));
                  return [resource](Napi::Env env) { return NativeDetector::create(env, resource); };
                });
  });
}

}  // namespace ddad::bind
