#include "bind/trainer_binding.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bind/detector_binding.h"
#include "bind/napi/cancel_token.h"
#include "device/device.h"

namespace ddad::bind {
namespace {

constexpr double kMaxLearningRate = 1e6;

Napi::Value toObject(Napi::Env env, const StepResult& result, int64_t step) {
  auto object = Napi::Object::New(env);
  object.Set("loss", result.loss);
  object.Set("mse", result.mse);
  object.Set("vb", result.vb);
  object.Set("feature", result.feature);
  object.Set("gradNorm", result.gradNorm);
  object.Set("step", static_cast<double>(step));
  return object;
}

}  // namespace

TrainerResource::TrainerResource(nlohmann::json config, DeviceOptions options, std::string backbone)
    : Resource("trainer"), config_(std::move(config)), options_(std::move(options)), backbone_(std::move(backbone)) {}

void TrainerResource::open() {
  if (trainer_) throw Error("ERR_ARGUMENT", "open: this trainer is open already");
  trainer_ = std::make_unique<Trainer>(options_.open(), config_, backbone_);
  publishMemory(trainer_->memory());
}

Trainer& TrainerResource::trainer() {
  if (!trainer_) throw Error("ERR_ARGUMENT", "expected an open trainer; wait for open() first");
  return *trainer_;
}

void TrainerResource::checkBatch(size_t pixels, const std::vector<int32_t>* labels) {
  const auto floats = static_cast<size_t>(trainer().batchFloats());
  const auto batch = static_cast<size_t>(trainer().batchSize());
  if (pixels != floats)
    throwArgument("step: pixels", std::to_string(floats) + " values (a batch of " + std::to_string(batch) + ")",
                  std::to_string(pixels));
  if (labels != nullptr && labels->size() != batch)
    throwArgument("step: labels", std::to_string(batch) + " labels", std::to_string(labels->size()));
}

Napi::Function NativeTrainer::define(Napi::Env env) {
  return DefineClass(
      env, "NativeTrainer",
      {InstanceMethod<&NativeTrainer::open>("open"), InstanceMethod<&NativeTrainer::observe>("observe"),
       InstanceMethod<&NativeTrainer::step>("step"), InstanceMethod<&NativeTrainer::saveCheckpoint>("saveCheckpoint"),
       InstanceMethod<&NativeTrainer::initialize>("initialize"),
       InstanceMethod<&NativeTrainer::loadCheckpoint>("loadCheckpoint"),
       InstanceMethod<&NativeTrainer::toDetector>("toDetector"), InstanceMethod<&NativeTrainer::memory>("memory"),
       InstanceMethod<&NativeTrainer::dispose>("dispose")});
}

NativeTrainer::NativeTrainer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeTrainer>(info) {
  callSync(info.Env(), [&] {
    nlohmann::json config = expectJson(info[0], "NativeTrainer: config");
    const nlohmann::json options = expectJson(info[1], "NativeTrainer: options");
    resource_ = makeResource<TrainerResource>(std::move(config), deviceOptions(options, "NativeTrainer: options"),
                                              textOption(options, "backbone", "", "NativeTrainer: options"));
  });
}

void NativeTrainer::Finalize(Napi::Env env) {
  if (resource_) resource_->reportMemory(env, false);
}

Napi::Value NativeTrainer::memory(const Napi::CallbackInfo& info) {
  return callSync(info.Env(), [&]() -> Napi::Value {
    resource_->checkAlive();
    return Napi::String::New(info.Env(), resource_->memory());
  });
}

void NativeTrainer::dispose(const Napi::CallbackInfo& info) {
  callSync(info.Env(), [&] { EnvData::of(info.Env()).dispose(resource_); });
}

Napi::Value NativeTrainer::open(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    CancelToken& token = expectToken(info[0], "open: token");
    EnvData::of(info.Env()).submit(deferred, resource_, &token, [self = resource_](const Cancel&) -> ToValue {
      self->open();
      return toUndefined;
    });
  });
}

Napi::Value NativeTrainer::observe(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    CancelToken& token = expectToken(info[1], "observe: token");
    auto pixels = expectTypedArray(info[0], "observe: pixels", {napi_float32_array}).copy<float>();
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, pixels = std::move(pixels)](const Cancel& cancel) -> ToValue {
                  self->checkBatch(pixels.size(), nullptr);
                  self->trainer().observe(pixels.data(), cancel);
                  return toUndefined;
                });
  });
}

Napi::Value NativeTrainer::step(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    const bool labelled = !info[1].IsNull();
    const double lr = expectNumber(info[2], "step: lr", 0, kMaxLearningRate);
    CancelToken& token = expectToken(info[3], "step: token");
    std::vector<int32_t> labels;
    if (labelled) labels = expectTypedArray(info[1], "step: labels", {napi_int32_array}).copy<int32_t>();
    auto pixels = expectTypedArray(info[0], "step: pixels", {napi_float32_array}).copy<float>();
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, pixels = std::move(pixels), labels = std::move(labels), labelled,
                 lr](const Cancel& cancel) -> ToValue {
                  self->checkBatch(pixels.size(), labelled ? &labels : nullptr);
                  Trainer& trainer = self->trainer();
                  const StepResult result = trainer.step(pixels.data(), labelled ? labels.data() : nullptr, lr, cancel);
                  self->publishMemory(trainer.memory());
                  return [result, step = trainer.stepsDone()](Napi::Env env) { return toObject(env, result, step); };
                });
  });
}

Napi::Value NativeTrainer::saveCheckpoint(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(info[0], "saveCheckpoint: path");
    nlohmann::json metadata = expectJson(info[1], "saveCheckpoint: metadata");
    CancelToken& token = expectToken(info[2], "saveCheckpoint: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, path = std::move(path), metadata = std::move(metadata)](const Cancel&) -> ToValue {
                  self->trainer().saveCheckpoint(path, metadata);
                  return toUndefined;
                });
  });
}

Napi::Value NativeTrainer::initialize(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(info[0], "initialize: path");
    if (!info[1].IsBoolean()) throwArgument("initialize: keepHead", "true or false", describe(info[1]));
    const bool keepHead = info[1].As<Napi::Boolean>().Value();
    CancelToken& token = expectToken(info[2], "initialize: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, path = std::move(path), keepHead](const Cancel&) -> ToValue {
                  std::string fresh = toText(self->trainer().initialize(path, keepHead));
                  return [fresh = std::move(fresh)](Napi::Env env) { return Napi::String::New(env, fresh); };
                });
  });
}

Napi::Value NativeTrainer::loadCheckpoint(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(info[0], "loadCheckpoint: path");
    CancelToken& token = expectToken(info[1], "loadCheckpoint: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token, [self = resource_, path = std::move(path)](const Cancel&) -> ToValue {
          std::string config = toText(self->trainer().loadCheckpoint(path));
          return [config = std::move(config)](Napi::Env env) { return Napi::String::New(env, config); };
        });
  });
}

Napi::Value NativeTrainer::toDetector(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    nlohmann::json config = expectJson(info[0], "toDetector: config");
    EnvData::of(info.Env())
        .submit(deferred, resource_, nullptr, [self = resource_, config = std::move(config)](const Cancel&) -> ToValue {
          auto resource = makeResource<DetectorResource>(self->trainer().toScorer(config));
          return [resource](Napi::Env env) { return NativeDetector::create(env, resource); };
        });
  });
}

}  // namespace ddad::bind
