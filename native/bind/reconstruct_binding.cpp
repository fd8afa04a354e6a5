// Of NativeDetector: reconstructions, step by step, and the Gaussian of good features, image by image. Each step is a
// task of its own on the compute thread, so whatever else waits there has its turn in between.
#include <climits>

#include "base/error.h"
#include "bind/detector_binding.h"
#include "bind/images.h"
#include "bind/napi/arguments.h"
#include "bind/napi/cancel_token.h"
#include "file/json_fields.h"

namespace ddad::bind {
namespace {

constexpr uint32_t kMaxImages = 64;
constexpr int kMaxFloats = 1 << 28;

/// Numbers a reconstruction and tells JavaScript of it.
ToValue begin(DetectorResource& self, std::unique_ptr<Reconstruction> reconstruction) {
  const int id = ++self.lastReconstruction;
  const nlohmann::json about = {{"id", id},
                                {"steps", reconstruction->steps()},
                                {"images", reconstruction->images()},
                                {"width", reconstruction->width()},
                                {"height", reconstruction->height()},
                                {"channels", reconstruction->channels()}};
  self.reconstructions.emplace(id, std::move(reconstruction));
  self.publish();
  return [text = toText(about)](Napi::Env env) { return Napi::String::New(env, text); };
}

SampleRequest sampleRequest(const nlohmann::json& options) {
  SampleRequest request;
  request.count = integerField(options, "count", 1, kMaxImages);
  request.height = integerField(options, "height", 1, INT_MAX);
  request.width = integerField(options, "width", 1, INT_MAX);
  request.first = static_cast<uint32_t>(integerField(options, "first", 0, INT_MAX, 0));
  request.label = static_cast<int>(integerField(options, "label", -1, INT_MAX, -1));
  return request;
}

GaussianFitter& fitterOf(DetectorResource& self) {
  if (self.fitter) return *self.fitter;
  throw Error("ERR_ARGUMENT", "no Gaussian is being fitted; expected beginGaussian before");
}

/// One step of a reconstruction; where `pixels` has room, the images after it go there.
std::vector<double> step(DetectorResource& self, int id, const Map* pixels, const Cancel& cancel) {
  const auto found = self.reconstructions.find(id);
  if (found == self.reconstructions.end())
    throw Error("ERR_ARGUMENT", "advance: expected a reconstruction in progress, got number " + std::to_string(id));
  Reconstruction& reconstruction = *found->second;
  const int64_t elements = reconstruction.elements();
  if (pixels && static_cast<int64_t>(pixels->length()) != reconstruction.images() * elements)
    throw Error("ERR_ARGUMENT", "advance: expected room for " + std::to_string(reconstruction.images() * elements) +
                                    " values, got " + std::to_string(pixels->length()));
  reconstruction.advance(cancel);
  std::vector<double> distances;
  for (int64_t i = 0; i < reconstruction.images(); ++i) {
    if (pixels) reconstruction.copyImage(i, pixels->data() + i * elements);
    if (reconstruction.hasDistance()) distances.push_back(reconstruction.distance(i));
  }
  return distances;
}

}  // namespace

Napi::Value NativeDetector::beginGaussian(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    nlohmann::json options = expectJson(info[0], "beginGaussian: options");
    EnvData::of(info.Env())
        .submit(deferred, resource_, nullptr,
                [self = resource_, options = std::move(options)](const Cancel&) -> ToValue {
                  self->fitter.reset();
                  self->fitter = self->scorer->fitGaussian(options);
                  return toUndefined;
                });
  });
}

Napi::Value NativeDetector::observeGaussian(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    CancelToken& token = expectToken(info[1], "observeGaussian: token");
    const auto image = std::make_shared<OwnedImage>(copyImage(info[0], "observeGaussian"));
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token, [self = resource_, image](const Cancel& cancel) -> ToValue {
          fitterOf(*self).add(image->request, cancel);
          self->publish();
          return toUndefined;
        });
  });
}

Napi::Value NativeDetector::finishGaussian(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const int label = expectInteger(info[0], "finishGaussian: label", 0, INT_MAX);
    EnvData::of(info.Env()).submit(deferred, resource_, nullptr, [self = resource_, label](const Cancel&) -> ToValue {
      std::string about = toText(self->scorer->setGaussian(label, fitterOf(*self)));
      self->fitter.reset();
      self->publish();
      return [about = std::move(about)](Napi::Env env) { return Napi::String::New(env, about); };
    });
  });
}

Napi::Value NativeDetector::reconstruct(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const std::vector<Napi::Value> values = expectArray(info[0], "reconstruct: images", kMaxImages);
    nlohmann::json options = expectJson(info[1], "reconstruct: options");
    CancelToken& token = expectToken(info[2], "reconstruct: token");
    const auto images = std::make_shared<std::vector<OwnedImage>>();
    for (const Napi::Value& image : values) images->push_back(copyImage(image, "reconstruct"));
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, images, options = std::move(options)](const Cancel&) -> ToValue {
                  std::vector<ScoreRequest> requests;
                  for (const OwnedImage& image : *images) requests.push_back(image.request);
                  return begin(*self, self->scorer->reconstruct(options, requests));
                });
  });
}

Napi::Value NativeDetector::sample(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    nlohmann::json options = expectJson(info[0], "sample: options");
    CancelToken& token = expectToken(info[1], "sample: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, options = std::move(options)](const Cancel&) -> ToValue {
                  return begin(*self, self->scorer->sample(options, sampleRequest(options)));
                });
  });
}

Napi::Value NativeDetector::advance(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const int id = expectInteger(info[0], "advance: id", 0, INT_MAX);
    const int floats = expectInteger(info[1], "advance: floats", 0, kMaxFloats);
    CancelToken& token = expectToken(info[2], "advance: token");
    std::vector<napi_ref> held;
    std::shared_ptr<Map> pixels;
    resource_->checkAlive();
    if (floats > 0) pixels = std::make_shared<Map>(info.Env(), static_cast<size_t>(floats), held);
    const auto parts = std::make_shared<std::vector<Cancel>>(1);
    EnvData::of(info.Env())
        .submit(deferred, resource_, {&token}, parts, std::move(held),
                [self = resource_, id, pixels](const Cancel& cancel) -> ToValue {
                  std::vector<double> distances = step(*self, id, pixels.get(), cancel);
                  return [pixels, distances = std::move(distances)](Napi::Env env) -> Napi::Value {
                    auto result = Napi::Object::New(env);
                    auto list = Napi::Array::New(env, distances.size());
                    for (size_t i = 0; i < distances.size(); ++i) list.Set(static_cast<uint32_t>(i), distances[i]);
                    result.Set("distances", list);
                    result.Set("pixels", pixels ? pixels->take(env) : env.Null());
                    return result;
                  };
                });
  });
}

Napi::Value NativeDetector::endReconstruction(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const int id = expectInteger(info[0], "endReconstruction: id", 0, INT_MAX);
    EnvData::of(info.Env()).submit(deferred, resource_, nullptr, [self = resource_, id](const Cancel&) -> ToValue {
      self->reconstructions.erase(id);
      self->publish();
      return toUndefined;
    });
  });
}

}  // namespace ddad::bind
