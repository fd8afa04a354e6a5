#include "bind/importer_binding.h"

#include <utility>

#include "base/error.h"
#include "bind/napi/arguments.h"
#include "bind/napi/cancel_token.h"

namespace ddad::bind {

nlohmann::json ImporterResource::open(const nlohmann::json& options) {
  if (!importer_) importer_ = std::make_unique<Importer>(path_);
  return importer_->inspect(options);
}

Importer& ImporterResource::importer() {
  if (!importer_) throw Error("ERR_ARGUMENT", "expected an open importer; wait for open() first");
  return *importer_;
}

Napi::Function NativeImporter::define(Napi::Env env) {
  return DefineClass(env, "NativeImporter",
                     {InstanceMethod<&NativeImporter::open>("open"), InstanceMethod<&NativeImporter::begin>("begin"),
                      InstanceMethod<&NativeImporter::write>("write"), InstanceMethod<&NativeImporter::close>("close"),
                      InstanceMethod<&NativeImporter::dispose>("dispose")});
}

NativeImporter::NativeImporter(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeImporter>(info) {
  callSync(info.Env(),
           [&] { resource_ = makeResource<ImporterResource>(expectPath(info[0], "NativeImporter: path")); });
}

Napi::Value NativeImporter::close(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    EnvData::of(info.Env()).submit(deferred, resource_, nullptr, [self = resource_](const Cancel&) -> ToValue {
      self->drop();
      return toUndefined;
    });
  });
}

void NativeImporter::dispose(const Napi::CallbackInfo& info) {
  callSync(info.Env(), [&] { EnvData::of(info.Env()).dispose(resource_); });
}

Napi::Value NativeImporter::open(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    nlohmann::json options = expectJson(info[0], "open: options");
    CancelToken& token = expectToken(info[1], "open: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, options = std::move(options)](const Cancel&) -> ToValue {
                  std::string text = toText(self->open(options));
                  return [text = std::move(text)](Napi::Env env) { return Napi::String::New(env, text); };
                });
  });
}

Napi::Value NativeImporter::begin(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    std::string path = expectPath(info[0], "begin: path");
    nlohmann::json config = expectJson(info[1], "begin: config");
    std::string backbone = expectString(info[2], "begin: backbone");
    CancelToken& token = expectToken(info[3], "begin: token");
    EnvData::of(info.Env())
        .submit(deferred, resource_, &token,
                [self = resource_, path = std::move(path), config = std::move(config),
                 backbone = std::move(backbone)](const Cancel&) -> ToValue {
                  self->importer().begin(path, config, backbone);
                  return toUndefined;
                });
  });
}

Napi::Value NativeImporter::write(const Napi::CallbackInfo& info) {
  return callAsync(info.Env(), [&](napi_deferred deferred) {
    CancelToken& token = expectToken(info[0], "write: token");
    EnvData::of(info.Env()).submit(deferred, resource_, &token, [self = resource_](const Cancel& cancel) -> ToValue {
      const double done = self->importer().write(cancel);
      return [done](Napi::Env env) { return Napi::Number::New(env, done); };
    });
  });
}

}  // namespace ddad::bind
