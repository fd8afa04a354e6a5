#include "bind/detector_binding.h"

#include <climits>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bind/images.h"
#include "bind/napi/arguments.h"
#include "bind/napi/cancel_token.h"
#include "device/device.h"
#include "score/model_file.h"
#include "score/score_model.h"

namespace ddad::bind {
namespace {

constexpr uint32_t kMaxBatch = 1024;

Napi::Float64Array toArray(Napi::Env env, const std::vector<double>& values) {
  auto array = Napi::Float64Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(double));
  return array;
}

Napi::Value toFloats(Napi::Env env, const std::vector<float>& values) {
  if (values.empty()) return env.Null();
  auto array = Napi::Float32Array::New(env, values.size());
  std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
  return array;
}

/// Those of an image. Where the map is one of the scores alone, it stands for that one too: maps are large.
struct Maps {
  Maps(Napi::Env env, const ScoreRequest& request, const DetectorResource& detector, std::vector<napi_ref>& held)
      : hasFeatures(detector.hasFeatures), map(env, lengthOf(request), held) {
    const MapSource source = detector.mapSource;
    if (source != MapSource::kPixel) pixelMap.emplace(env, lengthOf(request), held);
    if (hasFeatures && source != MapSource::kFeature) featureMap.emplace(env, lengthOf(request), held);
  }
  void setIn(ScoreRequest& request) const {
    request.shareMaps = true;
    request.map = map.data();
    request.pixelMap = pixelMap ? pixelMap->data() : nullptr;
    request.featureMap = featureMap ? featureMap->data() : nullptr;
  }
  void put(Napi::Env env, const ScoreResult& result, Napi::Object object) const {
    const Napi::Value judged = map.take(env);
    // `own`: what came of it where there was no room, which a configuration set meanwhile can lead to.
    const auto value = [&](const std::optional<Map>& room, const std::vector<float>& own) {
      return room ? room->take(env) : own.empty() ? judged : toFloats(env, own);
    };
    object.Set("map", judged);
    object.Set("pixelMap", value(pixelMap, result.pixelMap));
    object.Set("featureMap", hasFeatures ? value(featureMap, result.featureMap) : env.Null());
  }
  static size_t lengthOf(const ScoreRequest& request) {
    const int width = request.outWidth > 0 ? request.outWidth : request.width;
    const int height = request.outHeight > 0 ? request.outHeight : request.height;
    return static_cast<size_t>(width) * static_cast<size_t>(height);
  }

  bool hasFeatures;
  Map map;
  std::optional<Map> pixelMap, featureMap;
};

/// The images of a call, and what becomes of each.
struct Batch {
  std::vector<OwnedImage> images;
  std::vector<Maps> maps;
  std::vector<ScoreJob> jobs;
};

Napi::Value toObject(Napi::Env env, const ScoreResult::Statistics& statistics) {
  auto object = Napi::Object::New(env);
  object.Set("mean", toArray(env, statistics.mean));
  object.Set("std", toArray(env, statistics.std));
  object.Set("elements", static_cast<double>(statistics.elements));
  return object;
}

Napi::Value toObject(Napi::Env env, const ScoreResult& result, const Maps& maps) {
  auto object = Napi::Object::New(env);
  maps.put(env, result, object);
  object.Set("width", result.width);
  object.Set("height", result.height);
  object.Set("score", result.score);
  object.Set("pixel", toObject(env, result.pixel));
  object.Set("rgb", result.rgb.elements == 0 ? env.Null() : toObject(env, result.rgb));
  object.Set("feature", maps.hasFeatures ? toObject(env, result.feature) : env.Null());
  object.Set("memory", result.memory.elements == 0 ? env.Null() : toObject(env, result.memory));
  auto banks = Napi::Array::New(env, result.banks.size());
  for (size_t i = 0; i < result.banks.size(); ++i) banks.Set(static_cast<uint32_t>(i), toObject(env, result.banks[i]));
  object.Set("banks", banks);
  object.Set("evidence", result.evidence.empty() ? env.Null() : toArray(env, result.evidence));
  object.Set("residuals", toFloats(env, result.residuals));
  object.Set("evidenceRows", toFloats(env, result.evidenceRows));
  object.Set("evidenceChannels", static_cast<double>(result.evidenceChannels));
  object.Set("evidenceStatistics", toFloats(env, result.evidenceStatistics));
  object.Set("evidencePlaces", toFloats(env, result.evidencePlaces));
  return object;
}

/// The result of a job, or the error that it ended with.
Napi::Value toValue(Napi::Env env, const ScoreJob& job, const Maps& maps) {
  if (!job.error) return toObject(env, job.result, maps);
  try {
    std::rethrow_exception(job.error);
  } catch (...) {
    return toError(env, currentFailure()).Value();
  }
}

/// The images of a call, copied, with room for their maps.
std::shared_ptr<Batch> makeBatch(const std::vector<Napi::Value>& images, const DetectorResource& detector,
                                 const Parts& parts, std::vector<napi_ref>& held) {
  auto batch = std::make_shared<Batch>();
  for (const Napi::Value& image : images) batch->images.push_back(copyImage(image, "score"));
  for (size_t i = 0; i < images.size(); ++i) {
    ScoreRequest& request = batch->images[i].request;
    batch->maps.emplace_back(images[i].Env(), request, detector, held);
    batch->maps.back().setIn(request);
    batch->jobs.push_back({request, &(*parts)[i], {}, nullptr});
  }
  return batch;
}

}  // namespace

DetectorResource::DetectorResource(std::unique_ptr<Scorer> from)
    : Resource("detector"),
      scorer(std::move(from)),
      hasFeatures(scorer->config().contains("features") && !scorer->config()["features"].is_null()) {
  mapSource = scorer->mapSource();
  const ModelOrigin& file = scorer->origin();
  const auto orNull = [](const std::string& text) {
    return text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text);
  };
  origin = toText({{"digest", orNull(file.digest)},
                   {"signature", orNull(file.signature)},
                   {"signatureKey", orNull(file.signatureKey)},
                   {"threads", scorer->threads()}});
  publishConfig(scorer->config());
  publish();
}

void DetectorResource::publish() {
  nlohmann::json bytes = scorer->memory();
  int64_t running = fitter ? fitter->stateBytes() : 0;
  for (const auto& [id, reconstruction] : reconstructions) running += reconstruction->bytes();
  if (running > 0) bytes["reconstructions"] = running;
  publishMemory(bytes);
}

Napi::Function NativeDetector::define(Napi::Env env) {
  return DefineClass(
      env, "NativeDetector",
      {InstanceMethod<&NativeDetector::config>("config"), InstanceMethod<&NativeDetector::setConfig>("setConfig"),
       InstanceMethod<&NativeDetector::setMemory>("setMemory"),
       InstanceMethod<&NativeDetector::observePlaces>("observePlaces"),
       InstanceMethod<&NativeDetector::setEvidence>("setEvidence"), InstanceMethod<&NativeDetector::score>("score"),
       InstanceMethod<&NativeDetector::scoreBatch>("scoreBatch"), InstanceMethod<&NativeDetector::save>("save"),
       InstanceMethod<&NativeDetector::beginGaussian>("beginGaussian"),
       InstanceMethod<&NativeDetector::observeGaussian>("observeGaussian"),
       InstanceMethod<&NativeDetector::finishGaussian>("finishGaussian"),
       InstanceMethod<&NativeDetector::reconstruct>("reconstruct"), InstanceMethod<&NativeDetector::sample>("sample"),
       InstanceMethod<&NativeDetector::advance>("advance"),
       InstanceMethod<&NativeDetector::endReconstruction>("endReconstruction"),
       InstanceMethod<&NativeDetector::origin>("origin"), InstanceMethod<&NativeDetector::memory>("memory"),
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

Napi::Value NativeDetector::origin(const Napi::CallbackInfo& info) {
  return callSync(info.Env(), [&]() -> Napi::Value {
    resource_->checkAlive();
    return Napi::String::New(info.Env(), resource_->origin);
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
          self->mapSource = self->scorer->mapSource();
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

Napi::Value NativeDetector::observePlaces(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::vector<float> features =
        expectTypedArray(info[0], "observePlaces: features", {napi_float32_array}).copy<float>();
    const bool first = expectInteger(info[1], "observePlaces: first", 0, 1) == 1;
    EnvData::of(info.Env())
        .submit(deferred, resource_, nullptr,
                [self = resource_, first, features = std::move(features)](const Cancel&) -> ToValue {
                  self->scorer->observePlaces(features, first);
                  return toUndefined;
                });
  });
}

Napi::Value NativeDetector::setEvidence(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const int label = expectInteger(info[0], "setEvidence: label", 0, INT_MAX);
    std::vector<float> rows = expectTypedArray(info[1], "setEvidence: rows", {napi_float32_array}).copy<float>();
    std::vector<float> images = expectTypedArray(info[2], "setEvidence: images", {napi_float32_array}).copy<float>();
    const int keep = expectInteger(info[3], "setEvidence: keep", 1, kMaxResiduals);
    CancelToken& token = expectToken(info[4], "setEvidence: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, label, keep, rows = std::move(rows),
                 images = std::move(images)](const Cancel& cancel) -> ToValue {
                  self->scorer->setEvidence(label, rows, images, keep, cancel);
                  self->publish();
                  return toUndefined;
                });
  });
}

template <class F>
void NativeDetector::submitBatch(Napi::Env env, napi_deferred deferred, const std::vector<Napi::Value>& images,
                                 const std::vector<CancelToken*>& tokens, F answer) {
  const auto parts = std::make_shared<std::vector<Cancel>>(images.size());
  std::vector<napi_ref> held;
  EnvData& data = EnvData::of(env);
  std::shared_ptr<Batch> batch;
  try {
    resource_->checkAlive();
    batch = makeBatch(images, *resource_, parts, held);
  } catch (...) {
    for (const napi_ref reference : held) napi_delete_reference(env, reference);
    throw;
  }
  data.submit(deferred, resource_, tokens, parts, std::move(held),
              [self = resource_, batch, answer](const Cancel& cancel) -> ToValue {
                self->scorer->scoreBatch(batch->jobs.data(), batch->jobs.size());
                self->publish();
                cancel.check();
                batch->images.clear();
                return [batch, answer](Napi::Env to) -> Napi::Value { return answer(to, *batch); };
              });
}

Napi::Value NativeDetector::score(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    CancelToken& token = expectToken(info[1], "score: token");
    submitBatch(info.Env(), deferred, {info[0]}, {&token}, [](Napi::Env env, const Batch& batch) {
      if (batch.jobs[0].error) std::rethrow_exception(batch.jobs[0].error);
      return toObject(env, batch.jobs[0].result, batch.maps[0]);
    });
  });
}

Napi::Value NativeDetector::scoreBatch(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    // Proxies and getters are JavaScript: all of it runs before anything is looked at.
    const std::vector<Napi::Value> images = expectArray(info[0], "scoreBatch: images", kMaxBatch);
    std::vector<CancelToken*> tokens;
    for (const Napi::Value& token : expectArray(info[1], "scoreBatch: tokens", kMaxBatch))
      tokens.push_back(&expectToken(token, "scoreBatch: token"));
    if (tokens.size() != images.size())
      throwArgument("scoreBatch: tokens", std::to_string(images.size()) + " of them, one an image",
                    std::to_string(tokens.size()));
    submitBatch(info.Env(), deferred, images, tokens, [](Napi::Env env, const Batch& batch) {
      auto results = Napi::Array::New(env, batch.jobs.size());
      for (size_t i = 0; i < batch.jobs.size(); ++i)
        results.Set(static_cast<uint32_t>(i), toValue(env, batch.jobs[i], batch.maps[i]));
      return results;
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
    std::string content = textOption(json, "content", "", "loadDetector: options");
    CancelToken& token = expectToken(info[2], "loadDetector: token");
    EnvData::of(info.Env())
        .submit(deferred, nullptr, &token,
                [path = std::move(path), options = std::move(options),
                 content = std::move(content)](const Cancel& cancel) -> ToValue {
                  auto scorer = Scorer::load(options.open(), path, content);
                  cancel.check();
                  auto resource = makeResource<DetectorResource>(std::move(scorer));
                  return [resource](Napi::Env env) { return NativeDetector::create(env, resource); };
                });
  });
}

}  // namespace ddad::bind
