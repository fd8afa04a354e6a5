// The module: what require('ddad.node') returns. src/engine/native.ts describes it in TypeScript.
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <utility>

#include "backbone/efficientnet.h"
#include "bind/detector_binding.h"
#include "bind/export_binding.h"
#include "bind/importer_binding.h"
#include "bind/napi/arguments.h"
#include "bind/napi/cancel_token.h"
#include "bind/napi/compute_thread.h"
#include "bind/napi/env_data.h"
#include "bind/napi/errors.h"
#include "bind/napi/napi_base.h"
#include "bind/pixel_buffer.h"
#include "bind/profile_binding.h"
#include "bind/trainer_binding.h"
#include "device/info.h"
#include "file/checkpoint/checkpoint.h"
#include "file/digest.h"
#include "train/trainer.h"
#include "verify/verify.h"

namespace ddad::bind {
namespace {

/// info(): string
Napi::Value info(const Napi::CallbackInfo& call) {
  return callSync(call.Env(), [&]() -> Napi::Value { return Napi::String::New(call.Env(), toText(engineInfo())); });
}

/// verify(path, options, token): Promise<string>
Napi::Value verify(const Napi::CallbackInfo& call) {
  return callAsync(call.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(call[0], "verify: path");
    const nlohmann::json json = expectJson(call[1], "verify: options");
    DeviceOptions options = deviceOptions(json, "verify: options");
    std::string backbone = textOption(json, "backbone", "", "verify: options");
    CancelToken& token = expectToken(call[2], "verify: token");
    EnvData::of(call.Env())
        .submit(deferred, nullptr, &token,
                [path = std::move(path), backbone = std::move(backbone),
                 options = std::move(options)](const Cancel& cancel) -> ToValue {
                  const auto device = options.open();
                  std::string report = toText(verifyFile(*device, path, backbone, cancel));
                  return [report = std::move(report)](Napi::Env env) { return Napi::String::New(env, report); };
                });
  });
}

/// fileDigest(path, content, token): Promise<string>, JSON: {"stated" (null where the file states
/// none),"found","content" (null unless asked for)}
Napi::Value fileDigest(const Napi::CallbackInfo& call) {
  return callAsync(call.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(call[0], "fileDigest: path");
    if (!call[1].IsBoolean()) throwArgument("fileDigest: content", "true or false", describe(call[1]));
    const bool content = call[1].As<Napi::Boolean>().Value();
    CancelToken& token = expectToken(call[2], "fileDigest: token");
    EnvData::of(call.Env())
        .submit(deferred, nullptr, &token, [path = std::move(path), content](const Cancel&) -> ToValue {
          const SafetensorsFile file = SafetensorsFile::open(path);
          const std::string stated = statedDigest(file);
          nlohmann::json report = {{"stated", nullptr}, {"found", computeDigest(file)}, {"content", nullptr}};
          if (!stated.empty()) report["stated"] = stated;
          if (content) report["content"] = contentDigest(file);
          return [text = toText(report)](Napi::Env env) { return Napi::String::New(env, text); };
        });
  });
}

/// trainingMemory(config, options, token): Promise<string>, JSON: see Trainer::estimateMemory
Napi::Value trainingMemory(const Napi::CallbackInfo& call) {
  return callAsync(call.Env(), [&](napi_deferred deferred) {
    nlohmann::json config = expectJson(call[0], "trainingMemory: config");
    const nlohmann::json json = expectJson(call[1], "trainingMemory: options");
    DeviceOptions options = deviceOptions(json, "trainingMemory: options");
    std::string backbone = textOption(json, "backbone", "", "trainingMemory: options");
    CancelToken& token = expectToken(call[2], "trainingMemory: token");
    EnvData::of(call.Env())
        .submit(deferred, nullptr, &token,
                [config = std::move(config), backbone = std::move(backbone),
                 options = std::move(options)](const Cancel&) -> ToValue {
                  std::string report = toText(Trainer::estimateMemory(*options.open(), config, backbone));
                  return [report = std::move(report)](Napi::Env env) { return Napi::String::New(env, report); };
                });
  });
}

/// backboneTaps(path, token): Promise<string>, JSON: [{"stride","channels"}], fine to coarse
Napi::Value backboneTaps(const Napi::CallbackInfo& call) {
  return callAsync(call.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(call[0], "backboneTaps: path");
    CancelToken& token = expectToken(call[1], "backboneTaps: token");
    EnvData::of(call.Env()).submit(deferred, nullptr, &token, [path = std::move(path)](const Cancel&) -> ToValue {
      auto taps = nlohmann::json::array();
      const auto file = openTensorSource(path);
      const Backbone net = loadBackbone(*file, "", deepestStride(*file));
      for (const Backbone::Tap& tap : net.taps)
        taps.push_back({{"stride", int64_t{1} << tap.level}, {"channels", tap.channels}});
      return [text = toText(taps)](Napi::Env env) { return Napi::String::New(env, text); };
    });
  });
}

/// release(pixels): undefined. Lets go of the memory behind a typed array that fills its buffer, or of a PixelBuffer,
/// which V8 would do at its next collection, and so collects the more often the larger images are.
Napi::Value release(const Napi::CallbackInfo& call) {
  return callSync(call.Env(), [&]() -> Napi::Value {
    if (PixelBuffer* buffer = PixelBuffer::from(call[0])) {
      buffer->take(call.Env());
      return call.Env().Undefined();
    }
    const auto refuse = [&] { throwArgument("release: view", "a typed array", describe(call[0])); };
    if (!call[0].IsTypedArray()) refuse();
    const auto view = call[0].As<Napi::TypedArray>();
    napi_value buffer = nullptr;
    size_t bytes = 0;
    if (napi_get_typedarray_info(call.Env(), view, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok) refuse();
    bool plain = false;  // a shared buffer is none
    napi_is_arraybuffer(call.Env(), buffer, &plain);
    if (!plain || napi_get_arraybuffer_info(call.Env(), buffer, nullptr, &bytes) != napi_ok)
      return call.Env().Undefined();
    if (bytes == view.ByteLength()) napi_detach_arraybuffer(call.Env(), buffer);  // refused where it cannot be: no harm
    return call.Env().Undefined();
  });
}

/// process.exit() and uncaught errors end in exit() without a word to the addon's environments, and destructors of
/// libraries that the compute thread uses follow. A worker's own exit stops its calls alone (EnvData).
void stopWhenProcessExits(Napi::Env env) {
#ifdef __linux__
  if (static_cast<pid_t>(syscall(SYS_gettid)) != getpid()) return;
#endif
  const Napi::Value global = env.Global().Get("process");
  if (!global.IsObject()) return;
  const auto process = global.As<Napi::Object>();
  const Napi::Value once = process.Get("once");
  if (!once.IsFunction()) return;
  const auto stop =
      Napi::Function::New(env, [](const Napi::CallbackInfo&) { ComputeThread::instance().stopForExit(); });
  once.As<Napi::Function>().Call(process, {Napi::String::New(env, "exit"), stop});
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  stopWhenProcessExits(env);
  EnvData& data = EnvData::create(env);
  const Napi::Function detector = NativeDetector::define(env);
  if (napi_create_reference(env, detector, 1, &data.detectorClass) != napi_ok) throw Napi::Error::New(env);
  exports.Set("CancelToken", CancelToken::define(env));
  exports.Set("NativeImporter", NativeImporter::define(env));
  exports.Set("PixelBuffer", PixelBuffer::define(env));
  exports.Set("NativeTrainer", NativeTrainer::define(env));
  exports.Set("trainingMemory", Napi::Function::New<trainingMemory>(env, "trainingMemory"));
  exports.Set("backboneTaps", Napi::Function::New<backboneTaps>(env, "backboneTaps"));
  exports.Set("exportOnnx", Napi::Function::New<exportOnnx>(env, "exportOnnx"));
  exports.Set("exportWeights", Napi::Function::New<exportWeights>(env, "exportWeights"));
  exports.Set("fileDigest", Napi::Function::New<fileDigest>(env, "fileDigest"));
  exports.Set("info", Napi::Function::New<info>(env, "info"));
  exports.Set("loadDetector", Napi::Function::New<loadDetector>(env, "loadDetector"));
  exports.Set("profile", Napi::Function::New<profile>(env, "profile"));
  exports.Set("release", Napi::Function::New<release>(env, "release"));
  exports.Set("verify", Napi::Function::New<verify>(env, "verify"));
  return exports;
}

}  // namespace
}  // namespace ddad::bind

static Napi::Object initialise(Napi::Env env, Napi::Object exports) { return ddad::bind::initialise(env, exports); }
NODE_API_MODULE(NODE_GYP_MODULE_NAME, initialise)
